"""The table: which measures speak for which trouble, and what to do about it.

Owns: the diagnoses. Promises: data only; each row says what is wrong, by which evidence, and what to do, in both
languages. Never: measures, does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from gateway.installer.evidence import Measures
from gateway.installer.words import Text

ANY = float("inf")


class Diagnosis(Struct, frozen=True):
    """One row. It holds when every measure of `when` lies within its bounds (from, to)."""

    id: str
    when: Mapping[str, tuple[float, float]]
    what: Text
    proof: Text
    """Filled in with the measures."""
    do: Text

    def holds(self, measures: Measures) -> bool:
        """Whether the measures speak for it."""
        return all(low <= measures[name] <= high for name, (low, high) in self.when.items())


NONE = (0, 0)
SOME = (1, ANY)
DEVICE = {"elsewhere": NONE, "echoed_share": (0, 0.5), "not_tcp": NONE, "rtu_over_tcp": NONE}
"""Conditions of all rows that blame the device or the wire: nothing else explains the silence already."""

TABLE = (
    Diagnosis("no_port", {"missing": SOME},
              Text("没有这个端口", "there is no such port"),
              Text("系统里找不到它", "the system does not know it"),
              Text("插上 USB 转 485 适配器；用 ls /dev/serial/by-path 看正确的名字",
                   "plug the RS-485 adapter in; ls /dev/serial/by-path shows the right name")),
    Diagnosis("no_permission", {"forbidden": SOME},
              Text("无权打开端口", "this user may not open the port"),
              Text("系统拒绝了打开", "the system refused to open it"),
              Text("用 sudo，或把用户加入 dialout 组：sudo usermod -aG dialout $USER，然后重新登录",
                   "use sudo, or join the group: sudo usermod -aG dialout $USER, then log in again")),
    Diagnosis("held", {"held": SOME},
              Text("端口被别的程序占着", "another program holds the port"),
              Text("系统说端口正忙", "the system says it is busy"),
              Text("关掉串口助手之类的程序；sudo fuser -v 端口 可看到是谁",
                   "close the other program (a serial console?); sudo fuser -v PORT shows which it is")),
    Diagnosis("gone", {"gone": SOME},
              Text("端口在检查中消失了", "the port went away during the check"),
              Text("打开时还在，后来读写失败", "it could be opened, then reading or writing failed"),
              Text("检查 USB 插头、USB 供电和延长线；适配器过热或供电不足也会这样",
                   "check the USB plug, its supply and extension cables; a hot or starved adapter does this")),
    Diagnosis("host_refuses", {"host_refuses": SOME},
              Text("主机在，但这个端口没有开", "the host is there, but nobody listens on this port"),
              Text("连接被拒绝", "the connection was refused"),
              Text("在转换器网页里看 TCP 服务端口号（常见 502、8899、23、4196），并设为服务器模式",
                   "look up the TCP server port in the converter's page (often 502, 8899, 23, 4196); "
                   "set it to server mode")),
    Diagnosis("host_silent", {"host_silent": SOME},
              Text("连不上这个主机", "the host cannot be reached"),
              Text("没有任何回音", "nothing came back at all"),
              Text("检查供电、网线、IP 地址与网段（先 ping 一下）",
                   "check its power, its cable, its IP address and network (ping it first)")),
    Diagnosis("transparent", {"rtu_over_tcp": SOME},
              Text("转换器是透明模式：线上走的是 RTU 帧，不是 Modbus TCP",
                   "the converter is transparent: RTU frames travel through it, not Modbus TCP"),
              Text("用 RTU 帧经 TCP 询问，{rtu_over_tcp:.0f} 次得到正确应答；用 Modbus TCP 则没有",
                   "{rtu_over_tcp:.0f} RTU requests sent over TCP were answered correctly; Modbus TCP was not"),
              Text("在线路上写 framing: rtu，或把转换器改成 Modbus TCP 转 RTU 模式",
                   "write framing: rtu on the wire, or set the converter to Modbus TCP to RTU")),
    Diagnosis("not_modbus", {"not_tcp": SOME, "rtu_over_tcp": NONE},
              Text("对方不说 Modbus TCP", "the other end does not speak Modbus TCP"),
              Text("回来的字节不是 Modbus TCP 报文", "the bytes that came back are no Modbus TCP frame"),
              Text("检查转换器的工作模式和端口号，也许连到了别的服务",
                   "check the converter's mode and port number; this may be another service")),
    Diagnosis("other_master", {"unasked_requests": SOME},
              Text("线上已有另一台主机在询问", "another master is already asking on this wire"),
              Text("没人问时听到 {unasked_frames:.0f} 个完整报文，其中 {unasked_requests:.0f} 个是询问",
                   "{unasked_frames:.0f} whole frames were heard while this box was silent, "
                   "{unasked_requests:.0f} of them requests"),
              Text("一条 RS-485 线只能有一台主机：断开另一台（PLC、旧采集器、触摸屏），或改用它的数据",
                   "one RS-485 wire, one master: disconnect the other one (a PLC, an old logger, a panel)")),
    Diagnosis("unasked", {"unasked_bytes": (2, ANY), "unasked_requests": NONE},
              Text("没人问，线上却有字节", "there are bytes on the line although nobody asks"),
              Text("静听时收到 {unasked_bytes:.0f} 个字节，{unasked_frames:.0f} 个完整报文",
                   "{unasked_bytes:.0f} bytes while listening, {unasked_frames:.0f} whole frames"),
              Text("可能是别的主机用了别的波特率、设备在自动上报，或缺偏置电阻的干扰：逐个断开设备找出来源",
                   "another master at another speed, a device that reports by itself, or noise for want of a bias "
                   "resistor: disconnect devices one by one to find the source")),
    Diagnosis("echo", {"echoed_share": (0.5, 1)},
              Text("适配器把自己发出的字节也收回来了（回显）", "the adapter hears its own bytes (echo)"),
              Text("{asked:.0f} 次询问有 {echoed:.0f} 次先听到自己的问话",
                   "{echoed:.0f} of {asked:.0f} exchanges began with the request itself"),
              Text("在线路上写 echo: true", "write echo: true on the wire")),
    Diagnosis("other_settings", {"elsewhere": SOME},
              Text("设备在，但通信参数不同：它是 {elsewhere_text}", "the device is there, but set to {elsewhere_text}"),
              Text("用 {asked_text} 问不到，用 {elsewhere_text} 立即应答",
                   "asked with {asked_text} it is silent, with {elsewhere_text} it answers"),
              Text("在配置的 serial 里写 {elsewhere_text}，或把设备改成与线路一致",
                   "write {elsewhere_text} as its serial settings, or set the device to those of the wire")),
    Diagnosis("nothing", {"asked": SOME, "heard_any": NONE, "noise": NONE, "unasked_bytes": NONE, "answered": NONE,
                          **DEVICE},
              Text("一个字节也没听到", "not one byte was heard"),
              Text("问了 {asked:.0f} 次，全无回音", "{asked:.0f} questions, no answer at all"),
              Text("依次检查：传感器供电（多数要 12–24 V）；A、B 是否接反，对调试试；"
                   "端口是否选对；线是否接到底；地址与波特率",
                   "check in this order: the sensor's supply (mostly 12 to 24 V); swap A and B; is it the right port; "
                   "is the cable connected at both ends; address and speed")),
    Diagnosis("swapped", {"noise": SOME, "answered": NONE, "broken": NONE, **DEVICE},
              Text("线上有动静，但从无一个完整字符：A、B 线接反？",
                   "the line moves, but never a real character: swap A and B?"),
              Text("{noise:.0f} 次只收到 00 或 FF 一类的字节", "{noise:.0f} times only bytes like 00 or FF were heard"),
              Text("对调 A、B 再试；各厂家标法不一", "swap A and B and try again: vendors mark them differently")),
    Diagnosis("two_devices", {"doubled": SOME, "echoed": NONE},
              Text("两台设备用同一个地址", "two devices have this address"),
              Text("{doubled:.0f} 次一问得到两个完整应答", "{doubled:.0f} times one question got two whole answers"),
              Text("断开其中一台，用 mingluo set-address 给另一台换地址",
                   "disconnect one of them and give the other a new address with mingluo set-address")),
    Diagnosis("collision", {"broken": (2, ANY), "broken_share": (0.3, 1), "same_share": (0, 0.5), "doubled": NONE,
                            **DEVICE},
              Text("应答每次坏得不一样：两台设备同一个地址？", "answers are damaged, each time differently: "
                   "two devices on one address?"),
              Text("{broken:.0f} 次收到坏的应答，{answered:.0f} 次正确；坏的内容每次不同",
                   "{broken:.0f} damaged answers and {answered:.0f} good ones; no two damaged ones alike"),
              Text("只留一台设备在线上再试；若一台时就好，用 mingluo set-address 给另一台换地址。"
                   "若一台时仍坏：查终端电阻、屏蔽和线长",
                   "leave one device on the wire and try again; if it is well alone, give the other a new address with "
                   "mingluo set-address. If it still is damaged: termination, shield, length")),
    Diagnosis("speed", {"broken": (2, ANY), "broken_share": (0.9, 1), "same_share": (0.5, 1),
                        "headed_share": (0, 0.49), **DEVICE},
              Text("应答每次坏得一样：波特率或校验不对？",
                   "answers are damaged, always the same way: speed or parity?"),
              Text("{broken:.0f} 次都是坏的，多为 {broken_bytes:.0f} 个字节、内容相同",
                   "{broken:.0f} damaged answers, mostly {broken_bytes:.0f} bytes and alike"),
              Text("试 --parity even 与其他 --baud；说明书上写着出厂设置", "try --parity even and other --baud; "
                   "the manual tells the factory settings")),
    Diagnosis("damaged", {"broken": (2, ANY), "broken_share": (0.9, 1), "same_share": (0.5, 1),
                          "headed_share": (0.5, 1), **DEVICE},
              Text("应答的开头对，后面总是坏在同一处：应答被截断或改动",
                   "answers begin right and are always spoilt at the same place: they are cut or changed"),
              Text("{broken:.0f} 次都是坏的，多为 {broken_bytes:.0f} 个字节、内容相同；速率没有问题",
                   "{broken:.0f} damaged answers, mostly {broken_bytes:.0f} bytes and alike; the speed is right"),
              Text("串口服务器或无线透传的分包长度、分包间隔太小：加大；"
                   "直接用 USB 转 485 接设备再试，若仍坏是设备的毛病",
                   "a serial server or radio that cuts packets: raise its packet length and interval; try the "
                   "device on a plain USB adapter; if it is spoilt there too, the device is at fault")),
    Diagnosis("babble", {"broken": (2, ANY), "broken_share": (0.9, 1), "same_share": (0, 0.5), "answered": NONE,
                         "length_share": (0, 0.5), **DEVICE},
              Text("线上有动静，但从无一个正确报文", "the line moves, but there is never a right frame"),
              Text("{broken:.0f} 次收到长短不一的字节", "{broken:.0f} times bytes of varying number"),
              Text("依次试：对调 A、B；校验 --parity even；别的波特率；拔掉其他设备",
                   "try in this order: swap A and B; --parity even; another speed; take other devices off")),
    Diagnosis("noise", {"answered": SOME, "broken": SOME, "broken_share": (0.01, 0.3), **DEVICE},
              Text("偶有损坏的应答：线路有干扰", "some answers are damaged: the line is disturbed"),
              Text("{answered:.0f} 次正确，{broken:.0f} 次损坏", "{answered:.0f} good answers, {broken:.0f} damaged"),
              Text("两端各接 120 Ω，只一处偏置，屏蔽层单端接地，远离动力线；仍不行就降低波特率",
                   "120 Ω at both ends, one bias, shield earthed at one end, away from power cables; else go slower")),
    Diagnosis("gaps", {"answered": SOME, "silent": SOME, "silent_share": (0.05, 0.95), "broken": NONE, **DEVICE},
              Text("设备时答时不答", "the device answers only sometimes"),
              Text("{asked:.0f} 次询问，{silent:.0f} 次无回音",
                   "{silent:.0f} of {asked:.0f} questions without an answer"),
              Text("查接头与供电；也许它两次询问之间要歇（模板的 min_gap_ms），问得慢一些",
                   "check connectors and supply; it may need a rest between questions (min_gap_ms of its template)")),
    Diagnosis("late", {"late": SOME, "late_share": (0.05, 1)},
              Text("设备答得慢，超过通常等待的时间", "the device answers later than a wire usually waits"),
              Text("中位 {response_ms:.0f} ms，最慢 {response_max_ms:.0f} ms，通常只等 300 ms",
                   "median {response_ms:.0f} ms, longest {response_max_ms:.0f} ms; a wire waits 300 ms"),
              Text("在线路上写 answer_timeout_ms: {timeout_ms}", "write answer_timeout_ms: {timeout_ms} "
                   "on the wire")),
    Diagnosis("foreign", {"foreign": SOME},
              Text("答话的是别的地址", "somebody else answers"),
              Text("{foreign:.0f} 次听到没问过的地址的报文",
                   "{foreign:.0f} times a frame of an address nobody asked"),
              Text("查设备的地址拨码；或有另一台主机在线上",
                   "check the address switches; or another master is on the wire")),
    Diagnosis("wrong_shape", {"wrong_shape": SOME, "doubled": NONE},
              Text("设备答得不合规矩", "the device's answers do not fit the questions"),
              Text("{wrong_shape:.0f} 次校验正确，但长度或功能与所问不符",
                   "{wrong_shape:.0f} answers with a right checksum, but another length or function than asked"),
              Text("固件有缺陷，或转换器把上一问的应答给了这一问：加大 min_gap_ms 试试，记下型号报给厂家",
                   "a flaw of its firmware, or a converter that mixes answers up: try a longer min_gap_ms, "
                   "report the model")),
    Diagnosis("busy", {"busy": SOME},
              Text("设备说忙", "the device says it is busy"),
              Text("{busy:.0f} 次", "{busy:.0f} times"),
              Text("等预热结束；问得慢一些", "wait for its warm-up to end; ask more seldom")),
    Diagnosis("fails_inside", {"inside": SOME},
              Text("设备在，接线正常，但它说自己内部出错",
                   "the device is there and the wiring is good, but it says that it failed"),
              Text("{inside:.0f} 次", "{inside:.0f} times"),
              Text("断电一分钟再上电；若仍如此，换一台，记下型号报给厂家",
                   "power it off for a minute; if it goes on, replace it and report the model")),
    Diagnosis("refuses", {"refused_share": (0.5, 1), "inside": NONE},
              Text("设备在，接线正常，但拒绝所问的内容", "the device is there and the wiring is good, "
                   "but it refuses what it is asked"),
              Text("{refused:.0f} 次拒绝：{refusal_text}", "{refused:.0f} refusals: {refusal_text}"),
              Text("型号模板可能不对：用 mingluo discover 看它像哪个型号，或查说明书的寄存器表",
                   "the template may be the wrong one: mingluo discover proposes models; the manual lists registers")),
    Diagnosis("well", {"answered_share": (0.95, 1), "refused_share": (0, 0.49), "late_share": (0, 0.049),
                       "busy": NONE, "inside": NONE, "gone": NONE},
              Text("一切正常", "all is well"),
              Text("询问 {asked:.0f} 次，正确 {answered:.0f} 次，中位 {response_ms:.0f} ms，"
                   "最慢 {response_max_ms:.0f} ms",
                   "{answered:.0f} of {asked:.0f} answered, median {response_ms:.0f} ms, longest "
                   "{response_max_ms:.0f} ms"),
              Text("不用做什么", "nothing to do")),
)


def diagnose(measures: Measures) -> list[Diagnosis]:
    """Return the rows that hold, in the order of the table: what blocks everything first."""
    return [row for row in TABLE if row.holds(measures)]
