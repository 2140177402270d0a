// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* byteloop: 64 rounds of which each needs the one before. */
#include "../include/base.h"

SEC("xdp")
int byteloop(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u8 *bytes = data;
	__u32 h = 5381;

	if (data + 60 > end)
		return XDP_DROP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 64; i++) {
		h = h * 33 ^ bytes[i & 31];
		/* Keeps the compiler from joining rounds. */
		asm volatile("" : "+r"(h));
	}
	return h & 1 ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
