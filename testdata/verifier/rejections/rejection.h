/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the programs here share. Each has two programs: `refused`, which breaks the rule that the file's head
 * names, and `mended`, which does not.
 */
#ifndef EARLYBIRD_REJECTION_H
#define EARLYBIRD_REJECTION_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#ifndef LICENSE
#define LICENSE "Dual MIT/GPL"
#endif

char _license[] SEC("license") = LICENSE;

#define NULL ((void *)0)
#define __naked __attribute__((naked))
#ifndef __arg_nonnull
#define __arg_nonnull __attribute__((btf_decl_tag("arg:nonnull")))
#endif

/* The compiler no longer knows the value; the program does nothing. */
#define hide(x) asm volatile("" : "+r"(x))
/* Likewise what the pointer points to. */
#define hide_address(p) asm volatile("" : : "r"(p) : "memory")

/* Maps: name, type of a value, entries. The value's type is NAME_value. */
#define MAP(name, kind, of, entries) \
	typedef of name##_value; \
	struct { \
		__uint(type, kind); \
		__uint(max_entries, entries); \
		__type(key, __u32); \
		__type(value, name##_value); \
	} name SEC(".maps")
#define ARRAY(name, of, entries) MAP(name, BPF_MAP_TYPE_ARRAY, of, entries)
#define HASH(name, of, entries) MAP(name, BPF_MAP_TYPE_HASH, of, entries)
#define PROGRAMS(name, entries) MAP(name, BPF_MAP_TYPE_PROG_ARRAY, __u32, entries)
#define RINGBUF(name, bytes) \
	struct { \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, bytes); \
	} name SEC(".maps")

/* Debian 12's <linux/bpf.h> (Linux 6.1) has not got these. */
struct bpf_iter_num {
	__u64 opaque[1];
};

struct bpf_list_head {
	__u64 opaque[2];
} __attribute__((aligned(8)));

struct bpf_res_spin_lock {
	__u32 val;
};

struct bpf_list_node {
	__u64 opaque[3];
} __attribute__((aligned(8)));

#endif
