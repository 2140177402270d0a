// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Kernel function that is not there for XDP.
//
// Rejected: EB0901 at line 16
#include "rejection.h"

extern int bpf_dynptr_from_skb(struct xdp_md *ctx, __u64 flags, struct bpf_dynptr *to) __ksym;
extern int bpf_dynptr_from_xdp(struct xdp_md *ctx, __u64 flags, struct bpf_dynptr *to) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_skb(ctx, 0, &packet);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	struct bpf_dynptr packet;

	bpf_dynptr_from_xdp(ctx, 0, &packet);
	return XDP_PASS;
}
