// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Every kind of CO-RE relocation, on types that the running kernel and the bundled description have, on
// types that differ from them, and on types that nobody has. Answers go to `out`, so that a test can read
// them from the instructions.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define __relo __attribute__((preserve_access_index))

/* As in the kernel, but fewer members and another order. */
struct net_device___mine {
	unsigned int mtu;
	int ifindex;
	char name[16];
} __relo;

struct xdp_rxq_info {
	unsigned int queue_index;
	struct net_device___mine *dev;
} __relo;

struct xdp_buff {
	struct xdp_rxq_info *rxq;
	void *data;
	unsigned int frame_sz;
} __relo;

/* A flavour with a member that no kernel has. */
struct xdp_buff___future {
	unsigned long hint;
	void *data;
} __relo;

/* Bit fields, members of anonymous members, and sizes that differ. */
struct iphdr {
	__u8 ihl : 4, version : 4;
	__u32 saddr;
	__u32 daddr;
} __relo;

struct tcphdr {
	__u16 fin : 1, syn : 1, doff : 4;
} __relo;

struct bpf_sock_tuple___part {
	struct {
		__u16 dport;
	} ipv4;
	struct {
		__u32 daddr[4];
	} ipv6;
} __relo;

/* 64 bits here, 32 there: loads become smaller. */
struct xdp_mem_info {
	unsigned long id;
} __relo;

/* Signed and of another size: no load can follow. */
struct xdp_txq_info {
	int dev;
} __relo;

struct nobody_has_this {
	int field;
} __relo;

union nobody_has_this_union {
	int field;
};

typedef __u64 netdev_features_t;
typedef int nobody_has_this_type;

enum xdp_action___mine {
	XDP_PASS___mine = 77,
	XDP_NO_SUCH___mine = 78,
};

enum nobody_has_this_enum {
	NOTHING = -5,
};

/* What the kernel's struct must have to match. */
struct xdp_md___part {
	__u32 data;
	__u32 rx_queue_index;
};

struct xdp_md___other {
	__u64 data;
};

struct bpf_spin_lock___same {
	__u32 val;
};

#define OUT(i) out[i] = (__u64)
__u64 out[64];

SEC("xdp")
int field_offsets(struct xdp_md *ctx)
{
	OUT(0) __builtin_preserve_field_info(((struct xdp_buff *)0)->rxq, BPF_FIELD_BYTE_OFFSET);
	OUT(1) __builtin_preserve_field_info(((struct xdp_buff *)0)->frame_sz, BPF_FIELD_BYTE_OFFSET);
	OUT(2) __builtin_preserve_field_info(((struct net_device___mine *)0)->mtu, BPF_FIELD_BYTE_OFFSET);
	OUT(3) __builtin_preserve_field_info(((struct net_device___mine *)0)->name, BPF_FIELD_BYTE_OFFSET);
	OUT(4) __builtin_preserve_field_info(((struct net_device___mine *)0)->name[3], BPF_FIELD_BYTE_OFFSET);
	OUT(5) __builtin_preserve_field_info(((struct iphdr *)0)->saddr, BPF_FIELD_BYTE_OFFSET);
	OUT(6) __builtin_preserve_field_info(((struct bpf_sock_tuple___part *)0)->ipv6.daddr[2],
					     BPF_FIELD_BYTE_OFFSET);
	OUT(7) __builtin_preserve_field_info(((struct bpf_sock_tuple___part *)0)->ipv4.dport, BPF_FIELD_BYTE_OFFSET);
	OUT(8) __builtin_preserve_field_info(((struct xdp_buff *)0)[2].data, BPF_FIELD_BYTE_OFFSET);
	return XDP_PASS;
}

SEC("xdp")
int field_sizes_and_signs(struct xdp_md *ctx)
{
	OUT(0) bpf_core_field_size(((struct net_device___mine *)0)->name);
	OUT(1) bpf_core_field_size(((struct xdp_buff *)0)->rxq);
	OUT(2) bpf_core_field_size(((struct xdp_mem_info *)0)->id);
	OUT(3) bpf_core_field_size(((struct net_device___mine *)0)->name[1]);
	OUT(4) __builtin_preserve_field_info(((struct net_device___mine *)0)->ifindex, BPF_FIELD_SIGNED);
	OUT(5) __builtin_preserve_field_info(((struct net_device___mine *)0)->mtu, BPF_FIELD_SIGNED);
	OUT(6) bpf_core_field_size(((struct iphdr *)0)->version);
	return XDP_PASS;
}

SEC("xdp")
int bitfields(struct xdp_md *ctx)
{
	struct tcphdr *tcp = 0;
	struct iphdr *ip = 0;

	OUT(0) __builtin_preserve_field_info(tcp->doff, BPF_FIELD_BYTE_OFFSET);
	OUT(1) __builtin_preserve_field_info(tcp->doff, BPF_FIELD_LSHIFT_U64);
	OUT(2) __builtin_preserve_field_info(tcp->doff, BPF_FIELD_RSHIFT_U64);
	OUT(3) __builtin_preserve_field_info(tcp->syn, BPF_FIELD_LSHIFT_U64);
	OUT(4) __builtin_preserve_field_info(tcp->syn, BPF_FIELD_RSHIFT_U64);
	OUT(5) __builtin_preserve_field_info(ip->version, BPF_FIELD_LSHIFT_U64);
	OUT(6) __builtin_preserve_field_info(ip->version, BPF_FIELD_BYTE_OFFSET);
	OUT(7) __builtin_preserve_field_info(tcp->doff, BPF_FIELD_BYTE_SIZE);
	OUT(8) __builtin_preserve_field_info(ip->ihl, BPF_FIELD_SIGNED);
	return XDP_PASS;
}

SEC("xdp")
int existence(struct xdp_md *ctx)
{
	OUT(0) bpf_core_field_exists(((struct xdp_buff *)0)->frame_sz);
	OUT(1) bpf_core_field_exists(((struct xdp_buff___future *)0)->hint);
	OUT(2) bpf_core_field_exists(((struct nobody_has_this *)0)->field);
	OUT(3) bpf_core_type_exists(struct xdp_buff);
	OUT(4) bpf_core_type_exists(struct nobody_has_this);
	OUT(5) bpf_core_type_exists(union nobody_has_this_union);
	OUT(6) bpf_core_type_exists(netdev_features_t);
	OUT(7) bpf_core_type_exists(nobody_has_this_type);
	OUT(8) bpf_core_enum_value_exists(enum xdp_action, XDP_REDIRECT);
	OUT(9) bpf_core_enum_value_exists(enum xdp_action___mine, XDP_NO_SUCH___mine);
	OUT(10) bpf_core_enum_value_exists(enum nobody_has_this_enum, NOTHING);
	OUT(11) bpf_core_type_exists(enum xdp_action___mine);
	return XDP_PASS;
}

SEC("xdp")
int types(struct xdp_md *ctx)
{
	OUT(0) bpf_core_type_size(struct xdp_buff);
	OUT(1) bpf_core_type_size(struct nobody_has_this);
	OUT(2) bpf_core_type_size(netdev_features_t);
	OUT(3) bpf_core_type_id_local(struct xdp_buff);
	OUT(4) bpf_core_type_id_kernel(struct xdp_buff);
	OUT(5) bpf_core_type_id_kernel(struct nobody_has_this);
	OUT(6) bpf_core_type_matches(struct xdp_md___part);
	OUT(7) bpf_core_type_matches(struct xdp_md___other);
	OUT(8) bpf_core_type_matches(struct bpf_spin_lock___same);
	OUT(9) bpf_core_type_matches(enum xdp_action);
	OUT(10) bpf_core_type_matches(enum xdp_action___mine);
	OUT(11) bpf_core_type_matches(struct nobody_has_this);
	return XDP_PASS;
}

SEC("xdp")
int enumerators(struct xdp_md *ctx)
{
	OUT(0) bpf_core_enum_value(enum xdp_action___mine, XDP_PASS___mine);
	OUT(1) bpf_core_enum_value(enum bpf_func_id, BPF_FUNC_xdp_adjust_meta);
	return XDP_PASS;
}

/* Loads and stores; the sizes of some change. */
SEC("xdp")
int accesses(struct xdp_md *ctx)
{
	struct xdp_mem_info *mem = (void *)out;
	struct xdp_rxq_info *rxq = (void *)out;
	struct iphdr *ip = (void *)out;

	OUT(10) mem->id;
	OUT(11) rxq->queue_index;
	OUT(12) ip->daddr;
	rxq->queue_index = ctx->rx_queue_index;
	mem->id = 7;
	return XDP_PASS;
}

/* Relocations without a target, guarded as programs do it: only reached where the target exists. */
SEC("xdp")
int guarded(struct xdp_md *ctx)
{
	struct nobody_has_this *p = (void *)out;
	struct xdp_buff___future *b = (void *)out;

	if (bpf_core_field_exists(p->field))
		OUT(0) p->field;
	if (bpf_core_field_exists(b->hint))
		OUT(1) b->hint;
	if (bpf_core_enum_value_exists(enum nobody_has_this_enum, NOTHING))
		OUT(2) bpf_core_enum_value(enum nobody_has_this_enum, NOTHING);
	return XDP_PASS;
}

/* A pointer read as an int: the relocation of the load fails, and the program must not be reached. */
SEC("?xdp")
int wrong_size(struct xdp_md *ctx)
{
	struct xdp_txq_info *txq = (void *)out;

	OUT(0) txq->dev;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
