// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A firewall that tracks connections: TCP and UDP over IPv4 pass if they belong to a connection or begin one;
// the mark of a connection counts its packets.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Long enough for every capture. */
#define TIMEOUT_MS 600000
#define IPS_SEEN_REPLY 2

struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u16 ct_zone_id;
	__u8 ct_zone_dir;
	__u8 reserved[3];
};

struct nf_conn {
	unsigned long status;
	__u32 timeout;
	__u32 mark;
} __attribute__((preserve_access_index));

/* A connection that is not in the table yet; for CO-RE it is called as the other one. */
struct nf_conn___init {
	struct nf_conn ct;
};

extern struct nf_conn___init *bpf_xdp_ct_alloc(struct xdp_md *ctx, struct bpf_sock_tuple *tuple, __u32 tuple__sz,
					       struct bpf_ct_opts *opts, __u32 opts__sz) __ksym;
extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *ctx, struct bpf_sock_tuple *tuple, __u32 tuple__sz,
					 struct bpf_ct_opts *opts, __u32 opts__sz) __ksym;
extern struct nf_conn *bpf_ct_insert_entry(struct nf_conn___init *conn) __ksym;
extern void bpf_ct_release(struct nf_conn *conn) __ksym;
extern void bpf_ct_set_timeout(struct nf_conn___init *conn, __u32 timeout) __ksym;
extern int bpf_ct_change_timeout(struct nf_conn *conn, __u32 timeout) __ksym;
extern int bpf_ct_set_status(const struct nf_conn___init *conn, __u32 status) __ksym;
extern int bpf_ct_change_status(struct nf_conn *conn, __u32 status) __ksym;

enum outcome { OTHER, NEW, KNOWN, REPLY, DROPPED, NO_ROOM, OUTCOMES };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, __u32);
	__type(value, __u64);
} outcomes SEC(".maps");

/* Of the last packet of a connection. */
__u32 last_mark;
__u64 last_status;
__s32 last_error;

static int end(enum outcome outcome, int verdict)
{
	__u32 key = outcome;
	__u64 *count = bpf_map_lookup_elem(&outcomes, &key);

	if (count)
		*count += 1;
	return verdict;
}

static int begin(struct xdp_md *ctx, struct bpf_sock_tuple *tuple, struct bpf_ct_opts *opts)
{
	struct nf_conn___init *made = bpf_xdp_ct_alloc(ctx, tuple, sizeof(tuple->ipv4), opts, sizeof(*opts));
	struct nf_conn *conn;

	if (!made)
		return end(NO_ROOM, XDP_DROP);
	bpf_ct_set_timeout(made, TIMEOUT_MS);
	((struct nf_conn *)made)->mark = 1;
	conn = bpf_ct_insert_entry(made);
	if (!conn)
		return end(NO_ROOM, XDP_DROP);
	bpf_ct_release(conn);
	return end(NEW, XDP_PASS);
}

SEC("xdp")
int conntrack(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct bpf_ct_opts opts = { .netns_id = -1 };
	struct bpf_sock_tuple tuple = {};
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp = (void *)(ip + 1);
	struct nf_conn *conn;
	int reply, begins;

	if ((void *)(ip + 1) > data_end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5)
		return end(OTHER, XDP_PASS);
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP)
		return end(OTHER, XDP_PASS);
	if (data + sizeof(*eth) + sizeof(*ip) + 8 > data_end)
		return end(DROPPED, XDP_DROP);
	tuple.ipv4.saddr = ip->saddr;
	tuple.ipv4.daddr = ip->daddr;
	tuple.ipv4.sport = tcp->source;
	tuple.ipv4.dport = tcp->dest;
	opts.l4proto = ip->protocol;
	begins = ip->protocol == IPPROTO_UDP;
	if (!begins && (void *)(tcp + 1) <= data_end)
		begins = tcp->syn && !tcp->ack;

	conn = bpf_xdp_ct_lookup(ctx, &tuple, sizeof(tuple.ipv4), &opts, sizeof(opts));
	last_error = opts.error;
	if (!conn)
		return begins ? begin(ctx, &tuple, &opts) : end(DROPPED, XDP_DROP);
	reply = opts.dir;
	conn->mark += 1;
	if (reply)
		bpf_ct_change_status(conn, conn->status | IPS_SEEN_REPLY);
	bpf_ct_change_timeout(conn, TIMEOUT_MS);
	last_mark = conn->mark;
	last_status = conn->status;
	bpf_ct_release(conn);
	return end(reply ? REPLY : KNOWN, XDP_PASS);
}

char _license[] SEC("license") = "GPL";
