// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * An AF_XDP application on libxdp, as `earlybird bench xsk` measures it beside its own: on queue 0 of a device
 * it receives and drops (rx), sends packets of 64 bytes (tx), or sends back with addresses swapped (l2fwd).
 *
 * It reads how many packets to do from a line of standard input, does them, and writes how many were done and
 * how many nanoseconds of CPU that took. Everything that came is there before it is asked.
 *
 * usage: peer rx|tx|l2fwd IFNAME CPU
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <xdp/xsk.h>

#define FRAMES 4096u
#define FRAME_SIZE 4096u
#define ENTRIES 2048u
#define BATCH 64u
#define PATIENCE 2.0

static struct xsk_ring_prod fill, tx;
static struct xsk_ring_cons completion, rx;
static struct xsk_socket *xsk;
static char *area;
static __u64 spare[FRAMES];
static unsigned int spares;

static double seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what, int err)
{
	fprintf(stderr, "peer: %s: %s\n", what, strerror(err < 0 ? -err : err));
	exit(1);
}

static void refill(unsigned int most)
{
	unsigned int n = spares < most ? spares : most, i;
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

	for (i = 0; i < 4; i++)
		if (sendto(xsk_socket__fd(xsk), NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0)
			break;
}

static unsigned int receive(void)
{
	unsigned int n, i;
	__u32 at, to;

	n = xsk_ring_cons__peek(&rx, BATCH, &at);
	if (!n)
		return 0;
	if (xsk_ring_prod__reserve(&fill, n, &to) != n)
		die("fill ring", 28);
	for (i = 0; i < n; i++)
		*xsk_ring_prod__fill_addr(&fill, to + i) = xsk_ring_cons__rx_desc(&rx, at + i)->addr;
	xsk_ring_prod__submit(&fill, n);
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
	if (xsk_ring_prod__needs_wakeup(&tx))
		kick();
	return complete();
}

static unsigned int forward(void)
{
	unsigned int n, i;
	__u32 at, to;

	n = xsk_ring_cons__peek(&rx, BATCH, &at);
	if (n) {
		if (xsk_ring_prod__reserve(&tx, n, &to) != n)
			die("TX ring", 28);
		for (i = 0; i < n; i++) {
			const struct xdp_desc *d = xsk_ring_cons__rx_desc(&rx, at + i);
			char *p = area + d->addr, old[12];

			memcpy(old, p, 12);
			memcpy(p, old + 6, 6);
			memcpy(p + 6, old, 6);
			*xsk_ring_prod__tx_desc(&tx, to + i) = *d;
		}
		xsk_ring_prod__submit(&tx, n);
		xsk_ring_cons__release(&rx, n);
	}
	if (n && xsk_ring_prod__needs_wakeup(&tx))
		kick();
	n = complete();
	refill(n);
	return n;
}

int main(int argc, char **argv)
{
	static const unsigned char header[14] = { 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 2, 0x88, 0xb5 };
	struct xsk_socket_config config = {
		.rx_size = ENTRIES, .tx_size = ENTRIES, .bind_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
	};
	struct xsk_umem_config division = {
		.fill_size = ENTRIES, .comp_size = ENTRIES, .frame_size = FRAME_SIZE,
	};
	struct xsk_umem *umem;
	unsigned long count;
	cpu_set_t cpus;
	int err, sends;
	unsigned int i;

	if (argc != 4) {
		fprintf(stderr, "usage: peer rx|tx|l2fwd IFNAME CPU\n");
		return 2;
	}
	sends = !strcmp(argv[1], "tx");
	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[3]), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("CPU", 22);
	if (sends)
		config.libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD;
	area = mmap(NULL, FRAMES * FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		die("mmap", 12);
	err = xsk_umem__create(&umem, area, FRAMES * FRAME_SIZE, &fill, &completion, &division);
	if (err)
		die("umem", err);
	err = xsk_socket__create(&xsk, argv[2], 0, umem, &rx, &tx, &config);
	if (err)
		die("socket", err);
	for (i = 0; i < FRAMES; i++) {
		memcpy(area + i * FRAME_SIZE, header, sizeof(header));
		spare[spares++] = i * FRAME_SIZE;
	}
	if (!sends)
		refill(ENTRIES);
	printf("ready\n");
	fflush(stdout);
	while (scanf("%lu", &count) == 1) {
		double start = seconds(CLOCK_THREAD_CPUTIME_ID), limit = seconds(CLOCK_MONOTONIC) + PATIENCE;
		unsigned long done = 0;

		while (done < count) {
			unsigned int n = sends ? transmit() : argv[1][0] == 'r' ? receive() : forward();

			done += n;
			if (!n && seconds(CLOCK_MONOTONIC) > limit)
				break;
		}
		printf("%lu %.0f\n", done, (seconds(CLOCK_THREAD_CPUTIME_ID) - start) * 1e9);
		fflush(stdout);
	}
	xsk_socket__delete(xsk);
	xsk_umem__delete(umem);
	return 0;
}
