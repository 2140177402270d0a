// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Register read before it is written.
//
// Rejected: EB0201 at line 14
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u64 value;

	/* R3 was set by nobody */
	asm volatile("%0 = r3" : "=r"(value));
	return value & 1 ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u64 value = ctx->rx_queue_index;

	asm volatile("%0 += 1" : "+r"(value));
	return value & 1 ? XDP_PASS : XDP_DROP;
}
