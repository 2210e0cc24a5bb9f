"""The client library: a connection to the hypervisor that calls, follows events, and outlives restarts.

Begin with `client.Client` and `client.open_client`; `views` has what is told of a domain, `discovery` finds the
socket, `connection` carries calls and takes lost sessions up again.
"""
