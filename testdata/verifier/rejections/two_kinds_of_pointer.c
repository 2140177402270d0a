// SPDX-License-Identifier: MIT OR Apache-2.0
//
// One instruction for pointers of different kinds.
//
// Rejected: EB0415 at line 17
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	volatile __u32 own[6] = {};
	__u32 *from = (__u32 *)ctx;

	if (bpf_get_prandom_u32() & 1)
		from = (__u32 *)own;
	hide(from);
	return from[4] ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	volatile __u32 own[6] = {};
	__u32 value = ctx->rx_queue_index;

	if (bpf_get_prandom_u32() & 1)
		value = own[4];
	return value ? XDP_PASS : XDP_DROP;
}
