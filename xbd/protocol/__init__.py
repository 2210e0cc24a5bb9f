"""MessagePack-RPC without I/O: bytes to messages, messages to commands, sessions.

Nothing in here reads a socket, a clock or a file. `xbd.protocol.methods` describes the wire for other
implementers; `codec` frames it, `fields` and `commands` check what comes in, `session` keeps count.
"""
