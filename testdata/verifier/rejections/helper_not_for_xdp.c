// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Helper that does not exist, or not for XDP.
//
// Rejected: EB0501 at line 13
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u8 zero = 0;

	bpf_skb_store_bytes((void *)ctx, 0, &zero, 1, 0);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u8 zero = 0;

	bpf_xdp_store_bytes(ctx, 0, &zero, 1);
	return XDP_PASS;
}
