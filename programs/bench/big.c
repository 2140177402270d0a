// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* big: nearly 14,000 instructions without a jump, in four lanes that do not wait for each other: loads,
 * multiplications, rotations.
 */
#include "../include/base.h"

#define LANE(x, at)                                                                                \
	do {                                                                                       \
		x ^= *(__u32 *)(data + (at));                                                      \
		x *= 0x9e3779b97f4a7c15ULL;                                                        \
		x += x >> 29;                                                                      \
		asm volatile("" : "+r"(x));                                                        \
	} while (0)
#define ROUND(i)                                                                                   \
	do {                                                                                       \
		LANE(a, (i) % 48);                                                                 \
		LANE(b, ((i) + 4) % 48);                                                           \
		LANE(c, ((i) + 8) % 48);                                                           \
		LANE(d, ((i) + 12) % 48);                                                          \
	} while (0)
#define ROUNDS4(i) ROUND(i); ROUND((i) + 5); ROUND((i) + 10); ROUND((i) + 15)
#define ROUNDS16(i) ROUNDS4(i); ROUNDS4((i) + 1); ROUNDS4((i) + 2); ROUNDS4((i) + 3)
#define ROUNDS64(i) ROUNDS16(i); ROUNDS16((i) + 4); ROUNDS16((i) + 8); ROUNDS16((i) + 12)

SEC("xdp")
int big(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 a = 1, b = 2, c = 3, d = 4;

	if (data + 60 > end)
		return XDP_DROP;
	ROUNDS64(0);
	ROUNDS64(16);
	ROUNDS64(32);
	ROUNDS64(48);
	ROUNDS64(64);
	ROUNDS64(80);
	ROUNDS64(96);
	ROUNDS64(112);
	ROUNDS16(128);
	ROUNDS16(132);
	return (a ^ b ^ c ^ d) & 1 ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
