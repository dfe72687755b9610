"""The door to the simulated devices: what a test needs of them, in one import.

Owns: nothing. Promises: the names below stay. Never: holds code; `device`, `faults`, `station`, `hosts` do.
"""

from hil.device import Answer, Log, Slave, Written
from hil.faults import FAULTS, Fault
from hil.hosts import HOST_FAULTS, Host, HostFault, Hosts, TcpServer
from hil.station import RtuStation, attach

__all__ = ["FAULTS", "HOST_FAULTS", "Answer", "Fault", "Host", "HostFault", "Hosts", "Log", "RtuStation", "Slave",
           "TcpServer", "Written", "attach"]
