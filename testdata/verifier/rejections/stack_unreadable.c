// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Stack bytes read that hold nothing readable.
//
// Rejected: EB0301 at line 19
#include "rejection.h"

extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	struct bpf_iter_num it;
	__u64 inside;

	bpf_iter_num_new(&it, 0, 10);
	inside = *(volatile __u64 *)&it;
	bpf_iter_num_destroy(&it);
	return inside ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	struct bpf_iter_num it;
	int *first;
	int inside;

	bpf_iter_num_new(&it, 0, 10);
	first = bpf_iter_num_next(&it);
	inside = first ? *first : 0;
	bpf_iter_num_destroy(&it);
	return inside ? XDP_PASS : XDP_DROP;
}
