// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Exception thrown or caught where it cannot be.
//
// Rejected: EB0805 at line 12
#include "rejection.h"

extern void bpf_throw(__u64 cookie) __ksym;

static long visit(__u32 turn, void *arg)
{
	bpf_throw(XDP_DROP);
	return 0;
}

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	bpf_loop(10, visit, NULL, 0);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	if (ctx->rx_queue_index > 3)
		bpf_throw(XDP_DROP);
	return XDP_PASS;
}
