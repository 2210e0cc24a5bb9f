"""What a XenStore answers when it refuses: an errno name, which travels as that name."""

from xbd.errors import XbdError

# The names that a client knows (Xen public/io/xs_wire.h, xsd_errors); no other may be sent.
ERRNO_NAMES = frozenset(
    {"EINVAL", "EACCES", "EEXIST", "EISDIR", "ENOENT", "ENOMEM", "ENOSPC", "EIO"}
    | {"ENOTEMPTY", "ENOSYS", "EROFS", "EBUSY", "EAGAIN", "EISCONN", "E2BIG", "EPERM"}
)


class StoreError(XbdError):
    """A request that is refused; the store is as it was.

    Attributes: *errno* a name of `ERRNO_NAMES`, *message* why, for the log and for tests.
    """

    def __init__(self, errno: str, message: str) -> None:
        assert errno in ERRNO_NAMES, errno
        super().__init__(f"{errno}: {message}")
        self.errno = errno
        self.message = message
