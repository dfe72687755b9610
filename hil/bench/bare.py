"""The reference: the least a script can do to poll Modbus TCP devices and publish what they say. No journal, quality or
alarms, no reconnect, nothing checked beyond the byte count: whatever it reaches, a real gateway can only approach.

Usage: python -m hil.bench.bare HOST:PORT UNITS REGISTERS PERIOD_S SECONDS MQTT_PORT TOPIC [HOST:PORT…]
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time

import paho.mqtt.client as mqtt


def poll(address: str, units: int, registers: int, period_s: float, until_s: float, publish) -> None:  # noqa: ANN001
    """Ask each unit of one host for its registers, once a period, until the end."""
    host, port = address.rsplit(":", 1)
    line = socket.create_connection((host, int(port)))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    due, number = time.monotonic(), 0
    while due < until_s:
        time.sleep(max(0.0, due - time.monotonic()))
        for unit in range(1, units + 1):
            number = (number + 1) & 0xFFFF
            line.sendall(struct.pack(">HHHBBHH", number, 0, 6, unit, 3, 0, registers))
            answer = b""
            while len(answer) < 9 + 2 * registers:
                answer += line.recv(4096)
            values = struct.unpack(f">{registers}H", answer[9:])
            publish({"t": int(time.time() * 1000), "unit": unit, "values": values})
        due += period_s


def main(argv: list[str]) -> None:
    """Run one thread a host and publish each answer as one message of QoS 1."""
    address, units, registers, period_s, seconds, mqtt_port, topic, *more = argv
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(100)
    client.connect("127.0.0.1", int(mqtt_port))
    client.loop_start()
    until_s = time.monotonic() + float(seconds)
    threads = [threading.Thread(target=poll, args=(
        host, int(units), int(registers), float(period_s), until_s,
        lambda answer: client.publish(topic, json.dumps(answer), qos=1))) for host in [address, *more]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 5
    while client.want_write() and time.monotonic() < deadline:
        time.sleep(0.01)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main(sys.argv[1:])
