// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Pointer that is not known to stay valid.
//
// Rejected: EB0604 at line 24
#include "rejection.h"

ARRAY(values, __u64, 1);

struct node {
	__u64 value;
};

extern void *bpf_obj_new_impl(__u64 local_type_id, void *meta) __ksym;
extern void bpf_obj_drop_impl(void *object, void *meta) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	void *value = bpf_map_lookup_elem(&values, &key);

	if (value)
		bpf_obj_drop_impl(value, NULL);
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
