// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Size argument without bounds.
//
// Rejected: EB0505 at line 16
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	char buffer[64] = {};
	__u32 size = bpf_get_prandom_u32();

	if (!size)
		return XDP_DROP;
	bpf_xdp_load_bytes(ctx, 0, buffer, size);
	return buffer[0] ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	char buffer[64] = {};
	__u32 size = bpf_get_prandom_u32();

	if (size < 1 || size > sizeof(buffer))
		return XDP_DROP;
	bpf_xdp_load_bytes(ctx, 0, buffer, size);
	return buffer[0] ? XDP_PASS : XDP_DROP;
}
