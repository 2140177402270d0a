// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Field of a kernel object that is not there or not accessible.
//
// Rejected: EB0412 at line 19
#include "rejection.h"

struct xdp_buff {
	void *data;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	char *xdp = bpf_cast_to_kern_ctx(ctx);

	return *(__u64 *)(xdp + 4096) ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	struct xdp_buff *xdp = bpf_cast_to_kern_ctx(ctx);

	return xdp->data ? XDP_PASS : XDP_DROP;
}
