"""Hardware in the loop: simulated wires, devices, pins, brokers and faults, outside the gateway's process."""
