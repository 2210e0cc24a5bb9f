"""Run Qubes' qmemmand: its watcher and its server as they are, without the options and the log of its main().

It stands alone, without xbd: `xbd xen python3 qmemmand.py SOURCES SOCKET`.
"""

import importlib
import socketserver
import sys
import threading
import types

# Their own needs the rest of Qubes, and the program's name is that of a module of theirs.
sys.path[0] = sys.argv[1]
socket = sys.argv[2]
qubes = importlib.import_module("qubes")
for name in ("config", "utils"):
    module = types.ModuleType(name)
    sys.modules[f"qubes.{name}"] = module
    setattr(qubes, name, module)
qubes.config.qmemman_avail_mem_file = f"{socket}.available"
# It is there once something of Qubes has imported it.
importlib.import_module("xen.lowlevel.xc")
daemon = importlib.import_module("qubes.tools.qmemmand")
daemon.system_state.init()
server = socketserver.UnixStreamServer(socket, daemon.QMemmanReqHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
daemon.XSWatcher().watch_loop()
