/* A Modbus slave by somebody else: libmodbus, on a serial port or TCP. Used by tests/test_foreign.py.
 *
 * slave rtu PORT BAUD PARITY UNIT      slave tcp UNIT (prints its port)
 * 20 of each table: coils and inputs on where the number divides by 3, holding n = 1000 + n, input n = 2000 + n. */
#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int rtu = argc == 6 && !strcmp(argv[1], "rtu"), server = -1;
    if (!rtu && argc != 3) return 2;
    modbus_t *m = rtu ? modbus_new_rtu(argv[2], atoi(argv[3]), argv[4][0], 8, 1) : modbus_new_tcp("127.0.0.1", 0);
    modbus_mapping_t *map = modbus_mapping_new(20, 20, 20, 20);
    if (!m || !map) return 3;
    modbus_set_slave(m, atoi(argv[rtu ? 5 : 2]));
    for (int n = 0; n < 20; n++) {
        map->tab_bits[n] = map->tab_input_bits[n] = n % 3 == 0;
        map->tab_registers[n] = 1000 + n;
        map->tab_input_registers[n] = 2000 + n;
    }
    if (rtu) {
        if (modbus_connect(m)) { perror(argv[2]); return 4; }
        printf("0\n");
    } else {
        struct sockaddr_in at;
        socklen_t size = sizeof at;
        server = modbus_tcp_listen(m, 4);
        if (server < 0 || getsockname(server, (struct sockaddr *)&at, &size)) { perror("listen"); return 4; }
        printf("%d\n", ntohs(at.sin_port));
    }
    fflush(stdout);
    for (;;) {
        uint8_t request[MODBUS_TCP_MAX_ADU_LENGTH];
        if (!rtu && modbus_tcp_accept(m, &server) < 0) return 5;
        for (;;) {
            int got = modbus_receive(m, request);
            if (got > 0) modbus_reply(m, request, got, map);
            else if (got < 0 && (!rtu || errno == EIO || errno == ENODEV)) break;
        }
        if (rtu) return 0;
        modbus_close(m);
    }
}
