"""Runs Xen's own tools on a host: their hypercalls are caught by the kernel (seccomp), and answered here."""
