// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Division by the constant zero, or shift by more than the width.
//
// Rejected: EB0203 at line 13
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u64 share = ctx->rx_queue_index;

	asm volatile("%0 /= 0" : "+r"(share));
	return share ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u64 share = ctx->rx_queue_index;

	asm volatile("%0 /= 4" : "+r"(share));
	return share ? XDP_PASS : XDP_DROP;
}
