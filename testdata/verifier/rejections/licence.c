// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Function for programs under the GPL.
//
// Rejected: EB0502 at line 12
#define LICENSE "Proprietary"
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	bpf_printk("queue %d", ctx->rx_queue_index);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	return bpf_ktime_get_ns() & 1 ? XDP_PASS : XDP_DROP;
}
