"""The reference: the least a script can do to poll Modbus TCP devices and publish what they say.

No journal, quality or alarms, no reconnect, nothing checked beyond the byte count: whatever it reaches, a real gateway
can only approach.

Usage: python -m hil.bench.bare UNITS REGISTERS PERIOD_S MQTT_PORT HOST:PORT…
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import sys
import threading
import time

import paho.mqtt.client as mqtt


def poll(address: str, units: int, registers: int, period_s: float, publish) -> None:  # noqa: ANN001
    """Ask each unit of one host for its registers, once a period, for ever."""
    host, port = address.rsplit(":", 1)
    line = socket.create_connection((host, int(port)))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    due, number = time.monotonic(), 0
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        for unit in range(1, units + 1):
            number = (number + 1) & 0xFFFF
            line.sendall(struct.pack(">HHHBBHH", number, 0, 6, unit, 3, 0, registers))
            answer = b""
            while len(answer) < 9 + 2 * registers:
                answer += (chunk := line.recv(4096))
                if not chunk:
                    return
            values = struct.unpack(f">{registers}H", answer[9:])
            publish(f"bare/{port}", {"t": time.time_ns() // 1_000_000, "unit": unit, "values": values})
        due += period_s


def main(units: int, registers: int, period_s: float, mqtt_port: int, hosts: list[str]) -> None:
    """Run one thread a host and publish each answer as one message of QoS 1."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(100)
    client.connect("127.0.0.1", mqtt_port)
    client.loop_start()
    for host in hosts:
        threading.Thread(target=poll, daemon=True, args=(
            host, units, registers, period_s,
            lambda topic, answer: client.publish(topic, json.dumps(answer), qos=1))).start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
