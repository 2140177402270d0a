// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * An AF_XDP application on libxdp that knows nothing of Earlybird: it sends packets of its queue back with
 * Ethernet addresses swapped (echo), drops them (drop), or sends (tx), until it has seen COUNT of them or
 * 20 seconds have passed. It prints how many and how long.
 *
 * usage: peer echo|drop|tx IFNAME QUEUE COUNT
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <xdp/xsk.h>

#define FRAMES 4096u
#define FRAME_SIZE 4096u
#define BATCH 64u

static struct xsk_ring_prod fill, tx;
static struct xsk_ring_cons completion, rx;
static struct xsk_socket *xsk;
static char *area;
/* Frames that are free. */
static __u64 spare[FRAMES];
static unsigned int spares;

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what, int err)
{
	fprintf(stderr, "peer: %s: %s\n", what, strerror(err < 0 ? -err : err));
	exit(1);
}

static void refill(void)
{
	unsigned int n = spares < BATCH ? spares : BATCH, i;
	__u32 at;

	if (!n || xsk_ring_prod__reserve(&fill, n, &at) != n)
		return;
	for (i = 0; i < n; i++)
		*xsk_ring_prod__fill_addr(&fill, at + i) = spare[--spares];
	xsk_ring_prod__submit(&fill, n);
}

static unsigned int complete(void)
{
	unsigned int n, i;
	__u32 at;

	n = xsk_ring_cons__peek(&completion, 2 * BATCH, &at);
	for (i = 0; i < n; i++)
		spare[spares++] = *xsk_ring_cons__comp_addr(&completion, at + i) & ~(__u64)(FRAME_SIZE - 1);
	if (n)
		xsk_ring_cons__release(&completion, n);
	return n;
}

static void kick(void)
{
	int i;

	if (!xsk_ring_prod__needs_wakeup(&tx))
		return;
	for (i = 0; i < 4; i++)
		if (sendto(xsk_socket__fd(xsk), NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0)
			break;
}

static unsigned int receive(int echo)
{
	unsigned int n, i, places = 0;
	__u32 at, to = 0;

	n = xsk_ring_cons__peek(&rx, BATCH, &at);
	if (echo && n)
		places = xsk_ring_prod__reserve(&tx, n, &to);
	for (i = 0; i < n; i++) {
		const struct xdp_desc *d = xsk_ring_cons__rx_desc(&rx, at + i);

		if (places) {
			char *p = area + d->addr, old[12];

			memcpy(old, p, 12);
			memcpy(p, old + 6, 6);
			memcpy(p + 6, old, 6);
			*xsk_ring_prod__tx_desc(&tx, to + i) = *d;
		} else {
			spare[spares++] = d->addr & ~(__u64)(FRAME_SIZE - 1);
		}
	}
	if (places) {
		xsk_ring_prod__submit(&tx, places);
		kick();
	}
	if (n)
		xsk_ring_cons__release(&rx, n);
	return n;
}

static unsigned int transmit(void)
{
	unsigned int n = spares < BATCH ? spares : BATCH, i;
	__u32 at;

	if (n && xsk_ring_prod__reserve(&tx, n, &at) == n) {
		for (i = 0; i < n; i++) {
			struct xdp_desc *d = xsk_ring_prod__tx_desc(&tx, at + i);

			d->addr = spare[--spares];
			d->len = 64;
			d->options = 0;
		}
		xsk_ring_prod__submit(&tx, n);
	}
	kick();
	return complete();
}

int main(int argc, char **argv)
{
	static const unsigned char header[14] = { 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 2, 0x88, 0xb5 };
	struct xsk_socket_config config = {
		.rx_size = 2048, .tx_size = 2048, .bind_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
	};
	struct xsk_umem_config division = {
		.fill_size = 2048, .comp_size = 2048, .frame_size = FRAME_SIZE,
	};
	unsigned long count, done = 0;
	struct xsk_umem *umem;
	double start, end;
	int err, echo, sends, i;

	if (argc != 5) {
		fprintf(stderr, "usage: peer echo|drop|tx IFNAME QUEUE COUNT\n");
		return 2;
	}
	echo = !strcmp(argv[1], "echo");
	sends = !strcmp(argv[1], "tx");
	count = strtoul(argv[4], NULL, 10);
	if (sends)
		config.libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD;
	area = mmap(NULL, FRAMES * FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		die("mmap", 12);
	err = xsk_umem__create(&umem, area, FRAMES * FRAME_SIZE, &fill, &completion, &division);
	if (err)
		die("umem", err);
	err = xsk_socket__create(&xsk, argv[2], atoi(argv[3]), umem, &rx, &tx, &config);
	if (err)
		die("socket", err);
	for (i = 0; i < (int)FRAMES; i++) {
		memcpy(area + i * FRAME_SIZE, header, sizeof(header));
		spare[spares++] = i * FRAME_SIZE;
	}
	for (i = 0; !sends && i < 16; i++)
		refill();
	printf("ready\n");
	fflush(stdout);
	start = seconds();
	for (end = start; done < count && end - start < 20; end = seconds()) {
		unsigned int n = sends ? transmit() : receive(echo);

		done += n;
		if (sends)
			continue;
		complete();
		refill();
		if (!n) {
			struct pollfd p = { .fd = xsk_socket__fd(xsk), .events = POLLIN };

			poll(&p, 1, 100);
		}
	}
	printf("%lu %.6f\n", done, end - start);
	xsk_socket__delete(xsk);
	xsk_umem__delete(umem);
	return done < count;
}
