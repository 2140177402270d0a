// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Argument that a kernel function does not take.
//
// Rejected: EB0902 at line 17
#include "rejection.h"

extern int bpf_dynptr_from_xdp(struct xdp_md *ctx, __u64 flags, struct bpf_dynptr *to) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	struct bpf_dynptr packet;
	struct xdp_md copy = {};

	hide_address(&copy);
	bpf_dynptr_from_xdp(&copy, 0, &packet);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_xdp(ctx, 0, &packet);
	return XDP_PASS;
}
