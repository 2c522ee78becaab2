// Four thousand functions, each of which calls the next: link 0, link 1, ... and then `after`. They are small, but kept
// apart as those of a real program are, and each uses registers and stack in one of four ways.
//
// The object is linked into the program many times, `first` and `after` renamed so that each copy goes on in the next:
// a call through them has as many distinct return addresses as one asks for.
typedef void link(long further);

// Allocates and frees a block.
link pair;
link first, after;

#define KEPT(value) __asm__ volatile("" ::"r"(value) : "memory")
// Never taken, but it makes the functions as far apart as those of real programs (some 110 bytes).
#define WORK if (further < 0) __asm__ volatile(".skip 64, 0x90")
#define GO_ON(next) WORK; if (further) next(further - 1); else pair(0)

#define BODY_PLAIN(next) GO_ON(next); KEPT(0);
#define BODY_ONE_REGISTER(next) GO_ON(next); KEPT(further);
#define BODY_ARRAY(next) long room[3]; KEPT(room); GO_ON(next); KEPT(room);
#define BODY_REGISTERS(next) \
    long a, b; __asm__ volatile("" : "=r"(a), "=r"(b)); GO_ON(next); KEPT(a); KEPT(b); KEPT(further);

#define LINK(body, here, next) link next; __attribute__((noipa)) void here(long further) { BODY_##body(next) }

// A decimal digit more with each macro: `TEN(link_00, link_01)` makes link_000 to link_009, the last of which calls link_010.
#define TEN(here, next) \
    LINK(PLAIN, here##0, here##1) LINK(ONE_REGISTER, here##1, here##2) LINK(ARRAY, here##2, here##3) \
    LINK(REGISTERS, here##3, here##4) LINK(PLAIN, here##4, here##5) LINK(ONE_REGISTER, here##5, here##6) \
    LINK(ARRAY, here##6, here##7) LINK(REGISTERS, here##7, here##8) LINK(ONE_REGISTER, here##8, here##9) \
    LINK(ARRAY, here##9, next##0)
#define HUNDRED(here, next) \
    TEN(here##0, here##1) TEN(here##1, here##2) TEN(here##2, here##3) TEN(here##3, here##4) TEN(here##4, here##5) \
    TEN(here##5, here##6) TEN(here##6, here##7) TEN(here##7, here##8) TEN(here##8, here##9) TEN(here##9, next##0)
#define THOUSAND(here, next) \
    HUNDRED(here##0, here##1) HUNDRED(here##1, here##2) HUNDRED(here##2, here##3) HUNDRED(here##3, here##4) \
    HUNDRED(here##4, here##5) HUNDRED(here##5, here##6) HUNDRED(here##6, here##7) HUNDRED(here##7, here##8) \
    HUNDRED(here##8, here##9) HUNDRED(here##9, next##0)

#define link_0000 first
#define link_4000 after
THOUSAND(link_0, link_1) THOUSAND(link_1, link_2) THOUSAND(link_2, link_3) THOUSAND(link_3, link_4)

// Where a call can begin: every fifth link. The linker puts the tables of all copies one behind the other.
#define START(here) __attribute__((section("starts"), used)) static link *const start_##here = here;
#define STARTS_10(here) START(here##0) START(here##5)
#define STARTS_100(here) \
    STARTS_10(here##0) STARTS_10(here##1) STARTS_10(here##2) STARTS_10(here##3) STARTS_10(here##4) \
    STARTS_10(here##5) STARTS_10(here##6) STARTS_10(here##7) STARTS_10(here##8) STARTS_10(here##9)
#define STARTS_1000(here) \
    STARTS_100(here##0) STARTS_100(here##1) STARTS_100(here##2) STARTS_100(here##3) STARTS_100(here##4) \
    STARTS_100(here##5) STARTS_100(here##6) STARTS_100(here##7) STARTS_100(here##8) STARTS_100(here##9)
STARTS_1000(link_0) STARTS_1000(link_1) STARTS_1000(link_2) STARTS_1000(link_3)
