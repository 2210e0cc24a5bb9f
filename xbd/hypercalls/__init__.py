"""What a tool asks of Xen, as bytes, turned into calls of a host's client, and its answers into bytes."""
