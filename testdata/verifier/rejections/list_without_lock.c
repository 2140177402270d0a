// SPDX-License-Identifier: MIT OR Apache-2.0
//
// List or tree used without its lock, or with the wrong root.
//
// Rejected: EB0906 at line 36
#include "rejection.h"

struct node {
	struct bpf_list_node link;
	__u64 value;
};

struct shelf {
	struct bpf_spin_lock lock;
	struct bpf_list_head nodes __attribute__((btf_decl_tag("contains:node:link")));
};

ARRAY(shelves, struct shelf, 1);

extern void *bpf_obj_new_impl(__u64 local_type_id, void *meta) __ksym;
extern int bpf_list_push_front_impl(struct bpf_list_head *head, struct bpf_list_node *node, void *meta,
				    __u64 off) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	struct shelf *shelf = bpf_map_lookup_elem(&shelves, &key);
	struct node *node;

	if (!shelf)
		return XDP_DROP;
	node = bpf_obj_new_impl(bpf_core_type_id_local(struct node), NULL);
	if (!node)
		return XDP_DROP;
	bpf_list_push_front_impl(&shelf->nodes, &node->link, NULL, 0);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0;
	struct shelf *shelf = bpf_map_lookup_elem(&shelves, &key);
	struct node *node;

	if (!shelf)
		return XDP_DROP;
	node = bpf_obj_new_impl(bpf_core_type_id_local(struct node), NULL);
	if (!node)
		return XDP_DROP;
	bpf_spin_lock(&shelf->lock);
	bpf_list_push_front_impl(&shelf->nodes, &node->link, NULL, 0);
	bpf_spin_unlock(&shelf->lock);
	return XDP_PASS;
}
