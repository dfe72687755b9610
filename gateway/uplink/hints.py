"""What went wrong with a connection, and what to do about it, in both languages.

Owns: the sentences. Promises: no secret, no user name and no payload is ever part of one. Never: does I/O.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Literal

from msgspec import Struct

Reach = Literal["near", "far", "taken_over", "banned"]
"""`near`: TCP itself failed, asking again is cheap. `far`: somebody answered and said no, ask less and less often.
`taken_over`: another box uses our name. `banned`: asking makes it worse."""


class Problem(Struct, frozen=True):
    """One cause of an outage. `kind` is the word for logs and health."""

    kind: str
    en: str
    zh: str
    reach: Reach = "near"
    code: int = 0
    """The broker's own reason (MQTT 5.0 §2.4): it was reached, so another link would not help."""


LOST = Problem("lost", "the connection broke; usually the network, or the broker was stopped",
               "连接中断；多为网络故障或服务器停止")
SILENT = Problem("silent", "the broker stopped answering (half-open connection); reconnecting",
                 "服务器不再应答（半开连接）；正在重连")
UNPLUGGED = Problem("unplugged", "the network interface in use has no carrier; is the modem or cable connected?",
                    "所用网络接口无载波；请检查调制解调器或网线")
NO_CONNACK = Problem("no_connack", "TCP connects but no MQTT broker answers; check the port (1883 plain, 8883 TLS) and "
                     "whether tls is expected",
                     "TCP 已连通但没有 MQTT 应答；请检查端口（明文1883，TLS 8883）及是否需要 tls", "far")
CLOSED = Problem("closed", "the broker closed the connection before it answered; is this the right port, MQTT version "
                 "and TLS setting?", "服务器在应答前关闭了连接；请检查端口、MQTT 版本与 TLS 设置", "far")
NOT_LET_IN = Problem("client_certificate", "the broker hung up right after the TLS handshake; usually it wants a (or "
                     "another) client certificate: check cert_file and key_file",
                     "TLS 握手后服务器立即断开；多为需要（另一张）客户端证书，请检查 cert_file 与 key_file", "far")
FLAPPING = Problem("flapping", "every connection breaks within seconds: two boxes of one client_id (older brokers do "
                   "not say so), or a very poor network",
                   "每次连接都在数秒内中断：可能两台设备使用同一 client_id（旧版服务器不会说明），或网络极差", "far")

GARBLED = Problem("garbled", "what came was not MQTT; is this the right port, and does anything between change the "
                  "data?", "收到的不是 MQTT 报文；请检查端口及中间设备是否改动数据", "far")
SUBSCRIPTION = Problem("subscription", "the broker closed the connection on our subscription; ask the platform for the "
                       "right to read this gateway's cmd and stored topics; sending goes on without",
                       "服务器因本网关的订阅而断开；请平台开通 cmd 与 stored 主题的读取权限；上报不受影响", "far")

# MQTT 5.0 §2.4 reason codes; paho maps the return codes of 3.1.1 to the same numbers.
_CODES: dict[int, tuple[str, str, str]] = {
    0x83: ("implementation", "the broker does not accept this for a reason of its own; ask the platform",
           "服务器因自身规则拒绝；请联系平台"),
    0x84: ("version", "the broker does not speak this MQTT version; set mqtt: \"3.1.1\" for this platform",
           "服务器不支持该 MQTT 版本；请将该平台设为 mqtt: \"3.1.1\""),
    0x85: ("client_id", "the broker refuses this client_id; ask the platform which one it expects",
           "服务器拒绝该 client_id；请向平台确认"),
    0x86: ("credentials", "wrong user name or password; check username and password_file of this platform",
           "用户名或密码错误；请检查该平台的 username 与 password_file"),
    0x87: ("not_authorised", "the broker does not let this gateway in or write there; ask the platform for rights",
           "服务器未授权本网关；请平台为本网关的主题开通权限（ACL）"),
    0x88: ("unavailable", "the broker says it is unavailable; it will be asked again", "服务器暂不可用；将再次尝试"),
    0x89: ("busy", "the broker says it is busy; it will be asked again", "服务器繁忙；将再次尝试"),
    0x8A: ("banned", "the broker has banned this client; ask the platform", "服务器已封禁本客户端；请联系平台"),
    0x8B: ("shutting_down", "the broker is shutting down", "服务器正在关闭"),
    0x8D: ("keepalive", "the broker heard nothing for too long; check the network or raise keepalive_s",
           "服务器长时间未收到数据；请检查网络或增大 keepalive_s"),
    0x8C: ("authentication_method", "the broker wants another way to log in; ask the platform which",
           "服务器要求其他登录方式；请联系平台"),
    0x8E: ("taken_over", "another client uses this client_id: two boxes of one name, or a cloned card; rename one",
           "另一客户端使用了相同的 client_id：可能两台设备同名或卡被克隆；请分别设置编号"),
    0x8F: ("topic_filter", "the broker does not accept this subscription; ask the platform for its topics",
           "服务器不接受该订阅；请向平台确认主题"),
    0x90: ("topic", "the broker does not accept this topic; check root and ask the platform for its topics",
           "服务器不接受该主题；请检查 root 并向平台确认主题"),
    0x93: ("receive_maximum", "the broker found too many messages in flight; it will be asked again",
           "服务器认为在途报文过多；将再次尝试"),
    0x95: ("too_large", "the broker found a message too large; ask the platform to allow 64 kB packets",
           "服务器认为报文过大；请平台允许 64 kB 报文"),
    0x96: ("rate", "the broker found too many messages a second; lower backlog_messages_per_s",
           "服务器认为报文过密；请调小 backlog_messages_per_s"),
    0x97: ("quota", "the broker's quota for this gateway is used up; ask the platform",
           "平台给本网关的配额已用完；请联系平台"),
    0x98: ("administrative", "the platform's administrator ended the connection", "平台管理员断开了连接"),
    0x99: ("payload_format", "the broker does not accept what the message holds; ask the platform",
           "服务器不接受报文内容；请联系平台"),
    0x9A: ("retain", "the broker keeps no retained messages; ask the platform to allow them",
           "服务器不支持保留消息；请平台允许 retain"),
    0x9B: ("qos", "the broker does not take QoS 1; ask the platform to allow it", "服务器不支持 QoS 1；请平台开通"),
    0x9C: ("use_another_server", "the platform has another server for now; ask for its address",
           "平台暂时使用其他服务器；请向平台索取地址"),
    0x9D: ("server_moved", "the platform has moved; ask for its new address and set host",
           "平台已迁移；请索取新地址并修改 host"),
    0x9F: ("connection_rate", "the broker finds that this box connects too often; it will be asked less often",
           "服务器认为连接过于频繁；将降低尝试频率"),
    0xA0: ("connect_time", "the broker ended the connection after its maximum time; it will be opened again",
           "连接已达服务器允许的最长时间；将重新连接"),
}
_REACH: dict[int, Reach] = {0x8E: "taken_over", 0x8A: "banned", 0x8B: "near", 0xA0: "near"}


def of_code(code: int, name: str) -> Problem:
    """The cause behind a CONNACK, PUBACK or DISCONNECT reason code ≥ 0x80."""
    kind, en, zh = _CODES.get(code, (f"reason_{code:#04x}", f"the broker said {name!r}", f"服务器返回“{name}”"))
    return Problem(kind, f"{en} (MQTT reason {code:#04x})", f"{zh}（MQTT 原因码 {code:#04x}）", _REACH.get(code, "far"),
                   code)


def of_error(error: BaseException, host: str, port: int, tls: bool = False, interface: str = "") -> Problem:
    """The cause behind an exception of name look-up, interface, TCP, TLS or reading the TLS files."""
    where = f"{host}:{port}"
    if isinstance(error, OSError) and error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL) and interface:
        return Problem("no_interface", f"there is no network interface {interface} with an address; is the modem or "
                       "cable connected? (ip address lists them)",
                       f"没有可用的网络接口 {interface}；请检查调制解调器或网线（ip address 可列出接口）")
    if isinstance(error, PermissionError) and interface:
        return Problem("no_interface", f"this process may not choose the interface {interface}; Linux 5.7 or newer, or "
                       "CAP_NET_RAW, is needed",
                       f"本进程无权选择网络接口 {interface}；需要 Linux 5.7 以上或 CAP_NET_RAW 权限")
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(error, where)
    if tls and isinstance(error, ConnectionResetError | ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Problem("not_tls", f"{where} hung up during the TLS handshake; is it the TLS port (usually 8883)?",
                       f"{where} 在 TLS 握手时断开；请确认是否为 TLS 端口（通常 8883）", "far")
    if isinstance(error, ssl.SSLError):
        return of_tls_text(str(error), where)
    if isinstance(error, socket.gaierror):
        return Problem("name", f"the name {host} cannot be resolved; check host and the DNS server of this network",
                       f"无法解析域名 {host}；请检查 host 与本网络的 DNS")
    if isinstance(error, ConnectionRefusedError):
        return Problem("refused", f"nothing listens on {where}; is the broker running, are port and firewall right?",
                       f"{where} 无服务监听；请检查服务器是否运行、端口和防火墙")
    if isinstance(error, TimeoutError):
        return Problem("timeout", f"no answer from {where}; check network, SIM and firewall",
                       f"{where} 无应答；请检查网络、SIM 卡与防火墙")
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return Problem("file", f"cannot read {error.filename}: {error.strerror}; check the paths and rights under tls",
                       f"无法读取 {error.filename}；请检查 tls 下的路径与权限", "far")
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
        return Problem("no_route", f"no way to {where}; is the modem or cable connected?",
                       f"无法到达 {where}；请检查调制解调器或网线")
    return Problem(type(error).__name__.lower(), f"cannot connect to {where}: {error}", f"无法连接 {where}：{error}")


def _of_certificate(error: ssl.SSLCertVerificationError, where: str) -> Problem:
    said = error.verify_message or str(error)
    if "mismatch" in said or "doesn't match" in said:
        return Problem("certificate_name", f"the certificate of {where} is for another name ({said}); set host to "
                       "the name in the certificate",
                       f"{where} 的证书名称不符（{said}）；请将 host 设为证书中的名称", "far")
    if "expired" in said or "not yet valid" in said:
        return Problem("certificate_time", f"the certificate of {where} is not valid now ({said}); check this box's "
                       "clock first, then ask the platform",
                       f"{where} 的证书当前无效（{said}）；请先检查本机时钟，再联系平台", "far")
    return Problem("certificate", f"the certificate of {where} is not signed by ca_file ({said}); ask for the right CA",
                   f"{where} 的证书不是由 ca_file 签发（{said}）；请核对平台 CA", "far")


def of_tls_text(said: str, where: str) -> Problem:
    """The cause behind an error text of the TLS library (also one that arrives after the handshake, in TLS 1.3)."""
    low = said.lower()
    if any(words in low for words in ("certificate required", "bad certificate", "unknown ca", "certificate unknown",
                                      "handshake failure")):
        return Problem("client_certificate", f"{where} wants another client certificate ({said}); check cert_file and "
                       "key_file", f"{where} 不接受本机客户端证书（{said}）；请检查 cert_file 与 key_file", "far")
    if "wrong version number" in low or "record layer" in low:
        return Problem("not_tls", f"{where} does not speak TLS; use the TLS port (usually 8883) or remove tls",
                       f"{where} 不是 TLS 端口；请改用 TLS 端口（通常 8883）或去掉 tls", "far")
    return Problem("tls", f"TLS with {where} failed ({said}); check the files under tls",
                   f"与 {where} 的 TLS 失败（{said}）；请检查 tls 下的文件", "far")
