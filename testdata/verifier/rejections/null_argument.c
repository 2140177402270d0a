// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Argument that may be null.
//
// Rejected: EB0504 at line 20
#include "rejection.h"

struct node {
	__u64 value;
};

extern void *bpf_obj_new_impl(__u64 local_type_id, void *meta) __ksym;
extern void bpf_obj_drop_impl(void *object, void *meta) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	struct node *node = bpf_obj_new_impl(bpf_core_type_id_local(struct node), NULL);

	bpf_obj_drop_impl(node, NULL);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	struct node *node = bpf_obj_new_impl(bpf_core_type_id_local(struct node), NULL);

	if (node)
		bpf_obj_drop_impl(node, NULL);
	return XDP_PASS;
}
