// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Field of the context that is not there or not readable this way.
//
// Rejected: EB0409 at line 13
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 *behind = (__u32 *)(ctx + 1);

	return *behind ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	return ctx->rx_queue_index ? XDP_PASS : XDP_DROP;
}
