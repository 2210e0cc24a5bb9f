"""The wire protocol (MessagePack-RPC) without I/O: bytes to messages, messages to checked values, sessions.

Nothing in here reads a socket, a clock or a file. In the order to read them:

- `methods`: the table of all methods, answers, notifications and events; `description` makes JSON and pages of it;
- `codec`: framing and its limits, `fields` and `commands`: from untrusted parameters to bounded values;
- `session`: message ids and kept answers, so that a call that is sent again is not executed twice;
- `client_session`: the other side of that, for everybody; `guest_session` and `toolstack_session` for either socket;
- `recording`: operations as lines of JSON.

The shapes that the tables are made of are in `xbd.shapes`, what is told of a domain is in `xbd.domain`.
"""
