// SPDX-License-Identifier: MIT OR Apache-2.0
//
// An uninitialised variable decides.
//
// Rejected: EB0107 at line 14
#include "rejection.h"

extern void __bpf_trap(void) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	if (ctx->rx_queue_index > 3)
		__bpf_trap();
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	if (ctx->rx_queue_index > 3)
		return XDP_ABORTED;
	return XDP_PASS;
}
