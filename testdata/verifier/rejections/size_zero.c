// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Size argument that may be zero.
//
// Rejected: EB0506 at line 14
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	char buffer[64] = {};
	__u32 size = bpf_get_prandom_u32() & 31;

	bpf_xdp_load_bytes(ctx, 0, buffer, size);
	return buffer[0] ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	char buffer[64] = {};
	__u32 size = (bpf_get_prandom_u32() & 31) + 1;

	bpf_xdp_load_bytes(ctx, 0, buffer, size);
	return buffer[0] ? XDP_PASS : XDP_DROP;
}
