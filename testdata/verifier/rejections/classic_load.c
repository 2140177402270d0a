// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Loads of classic BPF in an XDP program.
//
// Rejected: EB0102 at line 11
#include "rejection.h"

SEC("xdp")
__naked int refused(struct xdp_md *ctx)
{
	asm volatile("r6 = r1; r0 = *(u8 *)skb[0]; exit");
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data;

	if (data + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_DROP;
	return *data & 1 ? XDP_DROP : XDP_PASS;
}
