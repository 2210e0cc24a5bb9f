"""The wire protocol (MessagePack-RPC) without I/O: bytes to messages, messages to checked values, sessions.

Nothing in here reads a socket, a clock or a file. In the order to read them:

- `methods`: the protocol's description for other implementers, and the tables of all methods and notifications;
- `codec`: framing and its limits, `fields` and `commands`: from untrusted parameters to bounded values;
- `session`: message ids and kept answers, so that a call that is sent again is not executed twice;
- `client_session`: the other side of that, for everybody; `guest_session` and `toolstack_session` for either socket;
- `views`: a listed domain as a value, `recording`: operations as lines of JSON, `quoting`: untrusted values in errors.
"""
