/* Preloaded into a client, gives each of its connections a source address of its own:
 * 127.0.10.1, 127.0.10.2, ... 127.0.10.200, 127.0.11.1 and so on. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <sys/socket.h>

int connect(int fd, const struct sockaddr *to, socklen_t length)
{
    static unsigned count;
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    if (to->sa_family == AF_INET) {
        struct sockaddr_in from = {.sin_family = AF_INET};
        unsigned number = count++ % 8000;
        from.sin_addr.s_addr = htonl(0x7f000a01u + (number / 200 << 8) + number % 200);
        bind(fd, (const struct sockaddr *)&from, sizeof from);
    }
    return next(fd, to, length);
}
