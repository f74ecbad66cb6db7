/* Words that headers of systems and frameworks make macros of, each put to nonsense: neither the
   declarations nor the bodies may use one as a name of their own. In front of them come the
   headers of ISO C, which could not be read behind this. */
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#define NONSENSE ) nonsense (
/* windows.h, rpcndr.h, objbase.h, wingdi.h, winnt.h */
#define near NONSENSE
#define far NONSENSE
#define NEAR NONSENSE
#define FAR NONSENSE
#define small NONSENSE
#define hyper NONSENSE
#define byte NONSENSE
#define boolean NONSENSE
#define interface NONSENSE
#define pascal NONSENSE
#define cdecl NONSENSE
#define huge NONSENSE
#define IN NONSENSE
#define OUT NONSENSE
#define OPTIONAL NONSENSE
#define ERROR NONSENSE
#define CONST NONSENSE
#define VOID NONSENSE
#define THIS NONSENSE
#define PURE NONSENSE
#define DELETE NONSENSE
#define STRICT NONSENSE
#define RELATIVE NONSENSE
#define ABSOLUTE NONSENSE
#define TRANSPARENT NONSENSE
#define DIFFERENCE NONSENSE
#define TRUE NONSENSE
#define FALSE NONSENSE
#define TEXT(x) NONSENSE
#define RGB(r, g, b) NONSENSE
#define Yield() NONSENSE
#define min(a, b) NONSENSE
#define max(a, b) NONSENSE
#define MIN(a, b) NONSENSE
#define MAX(a, b) NONSENSE
/* complex.h */
#define I NONSENSE
#define complex NONSENSE
#define imaginary NONSENSE
/* sys/sysmacros.h, sys/param.h, termios.h, sys/ucontext.h, curses.h */
#define major NONSENSE
#define minor NONSENSE
#define makedev NONSENSE
#define howmany(x, y) NONSENSE
#define roundup(x, y) NONSENSE
#define isset(a, i) NONSENSE
#define B0 NONSENSE
#define B1 NONSENSE
#define B50 NONSENSE
#define ECHO NONSENSE
#define CR0 NONSENSE
#define unix NONSENSE
#define linux NONSENSE
#define sun NONSENSE
#define i386 NONSENSE
#define move(y, x) NONSENSE
#define erase() NONSENSE
#define clear() NONSENSE
#define refresh() NONSENSE
#define timeout(t) NONSENSE
#define instr NONSENSE
#define OK NONSENSE
#define ERR NONSENSE
/* Qt, X11, Objective-C, AltiVec, Apple's AssertMacros.h */
#define slots 42 nonsense
#define signals NONSENSE
#define emit NONSENSE
#define foreach NONSENSE
#define forever NONSENSE
#define Bool NONSENSE
#define None NONSENSE
#define Status NONSENSE
#define Success NONSENSE
#define True NONSENSE
#define False NONSENSE
#define Always NONSENSE
#define Above NONSENSE
#define id NONSENSE
#define nil NONSENSE
#define YES NONSENSE
#define NO NONSENSE
#define vector NONSENSE
#define pixel NONSENSE
#define check(x) NONSENSE
#define verify(x) NONSENSE
#define require(x, y) NONSENSE
/* Arduino, older ctype.h and math.h, attributes by short names */
#define F(x) NONSENSE
#define PI NONSENSE
#define HIGH NONSENSE
#define LOW NONSENSE
#define INPUT NONSENSE
#define OUTPUT NONSENSE
#define DEFAULT NONSENSE
#define EXTERNAL NONSENSE
#define bit(b) NONSENSE
#define sq(x) NONSENSE
#define round(x) NONSENSE
#define radians(x) NONSENSE
#define degrees(x) NONSENSE
#define constrain(x, l, h) NONSENSE
#define _U NONSENSE
#define _L NONSENSE
#define _N NONSENSE
#define _P NONSENSE
#define _C NONSENSE
#define _X NONSENSE
#define _B NONSENSE
#define _T(x) NONSENSE
#define DOMAIN NONSENSE
#define SING NONSENSE
#define OVERFLOW NONSENSE
#define unused NONSENSE
#define aligned NONSENSE
#define noinline NONSENSE
#define always_inline NONSENSE
#define may_alias NONSENSE
#define vector_size NONSENSE
#define target NONSENSE
#define likely(x) NONSENSE
#define unlikely(x) NONSENSE
#define countof(x) NONSENSE
#define ARRAY_SIZE(x) NONSENSE
#define offset_of NONSENSE
#define container_of NONSENSE
/* Programs' own: all capital letters but T, a member of l2l_train_options; F and I are above */
#define A NONSENSE
#define B NONSENSE
#define C NONSENSE
#define D NONSENSE
#define E NONSENSE
#define G NONSENSE
#define H NONSENSE
#define J NONSENSE
#define K NONSENSE
#define L NONSENSE
#define M NONSENSE
#define N NONSENSE
#define O NONSENSE
#define P NONSENSE
#define Q NONSENSE
#define R NONSENSE
#define S NONSENSE
#define U NONSENSE
#define V NONSENSE
#define W NONSENSE
#define X NONSENSE
#define Y NONSENSE
#define Z NONSENSE
#define FMA(x, y, z) NONSENSE
#define PAIR NONSENSE
#define SUMS NONSENSE
#define PARTS NONSENSE
#define PIECE NONSENSE
