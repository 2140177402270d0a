// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Dynptr that is not initialised, or already is.
//
// Rejected: EB0903 at line 16
#include "rejection.h"

extern int bpf_dynptr_from_xdp(struct xdp_md *ctx, __u64 flags, struct bpf_dynptr *to) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	struct bpf_dynptr memory;
	char first;

	bpf_dynptr_read(&first, 1, &memory, 0, 0);
	return first ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	struct bpf_dynptr packet;
	char first = 0;

	bpf_dynptr_from_xdp(ctx, 0, &packet);
	bpf_dynptr_read(&first, 1, &packet, 0, 0);
	return first ? XDP_PASS : XDP_DROP;
}
