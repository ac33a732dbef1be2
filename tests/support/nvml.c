/* A driver library for machines without a GPU: what NVML's functions answer, from the file `cards` beside it.
 *
 * One fact per line, about the last named card:
 *   driver VERSION
 *   gpu UUID|NAME|TOTAL_BYTES|FREE_BYTES|CAPABILITY|BUS_ID
 *   mig UUID|NAME|TOTAL_BYTES|FREE_BYTES       an instance of that card
 *   cut                                        MIG is on, without an instance
 *   denied | lost                              it may not be opened; it has fallen off the bus
 *   field ID TYPE VALUE                        a field value
 *   ecc LOCATION VALUE | ecc total VALUE       uncorrected errors since the last reset
 *   events MASK | throttle MASK                why the clock is slowed, by the newer or the older function
 * No file: the driver is not loaded. What no line says is not supported. Where a file `after` exists, it answers from
 * the second session on that opens a card by its UUID.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK, UNINITIALIZED, INVALID, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND = 6, SMALL = 7, NO_DRIVER = 9, NO_FUNCTION = 13, LOST = 15 };

typedef struct { uint32_t id, scope; int64_t at, latency; uint32_t type, result; union { double d; uint32_t u; uint64_t l; } value; } Field;
typedef struct card {
    struct card *parent;
    char uuid[96], name[96], bus[32];
    unsigned long long total, free, ecc[9], events, throttle;
    int major, minor, is_cut, is_denied, is_lost, has_ecc[9], has_events, has_throttle, fields;
    Field field[32];
} Card;

static Card cards[32];
static int count, sessions;
static char driver[80];

static void beside(char *path, size_t size, const char *name) {
    Dl_info here;
    dladdr((void *)beside, &here);
    snprintf(path, size, "%.*s/%s", (int)(strrchr(here.dli_fname, '/') - here.dli_fname), here.dli_fname, name);
}

int nvmlInitWithFlags(unsigned flags) {
    char path[4096], line[512], location[32];
    unsigned long long a, b;
    beside(path, sizeof path, "asked");
    int again = access(path, F_OK) == 0;
    beside(path, sizeof path, again ? "after" : "cards");
    FILE *file = fopen(path, "r");
    if (!file) return NO_DRIVER;
    memset(cards, 0, sizeof cards);
    count = 0;
    driver[0] = 0;
    Card *gpu = NULL, *card = NULL;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "driver %79s", driver) == 1) continue;
        if (!strncmp(line, "gpu ", 4) || !strncmp(line, "mig ", 4)) {
            card = &cards[count++];
            sscanf(line + 4, "%95[^|]|%95[^|]|%llu|%llu|%d.%d|%31s", card->uuid, card->name, &card->total, &card->free,
                   &card->major, &card->minor, card->bus);
            if (line[0] == 'g') gpu = card;
            else card->parent = gpu, gpu->is_cut = 1;
            continue;
        }
        if (!card) continue;
        Field *field = &card->field[card->fields];
        if (!strncmp(line, "cut", 3)) card->is_cut = 1;
        else if (!strncmp(line, "denied", 6)) card->is_denied = 1;
        else if (!strncmp(line, "lost", 4)) card->is_lost = 1;
        else if (sscanf(line, "field %u %u %llu", &field->id, &field->type, &a) == 3) {
            if (field->type == 0) field->value.d = a; else field->value.l = a;
            card->fields++;
        } else if (sscanf(line, "ecc %31s %llu", location, &b) == 2) {
            int at = strcmp(location, "total") ? atoi(location) : 8;
            card->ecc[at] = b, card->has_ecc[at] = 1;
        } else if (sscanf(line, "events %llu", &a) == 1) card->events = a, card->has_events = 1;
        else if (sscanf(line, "throttle %llu", &a) == 1) card->throttle = a, card->has_throttle = 1;
    }
    fclose(file);
    sessions++;
    return OK;
}

int nvmlShutdown(void) { return sessions > 0 ? (sessions--, OK) : UNINITIALIZED; }
const char *nvmlErrorString(int result) { return "an error"; }

static int say(char *out, unsigned size, const char *text) { return strlen(text) < size ? (strcpy(out, text), OK) : SMALL; }

static int nth(int wanted, Card *parent, Card **out) {
    if (!sessions) return UNINITIALIZED;
    for (int at = 0; at < count; at++)
        if (cards[at].parent == parent && wanted-- == 0) {
            *out = &cards[at];
            return cards[at].is_denied ? NO_PERMISSION : OK;
        }
    return parent ? NOT_FOUND : INVALID;
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) { return driver[0] ? say(out, size, driver) : NOT_SUPPORTED; }
int nvmlDeviceGetCount_v2(unsigned *out) {
    Card *card;
    for (*out = 0; nth(*out, NULL, &card) == OK || nth(*out, NULL, &card) == NO_PERMISSION; ++*out);
    return sessions ? OK : UNINITIALIZED;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Card **out) { return nth(index, NULL, out); }
int nvmlDeviceGetHandleByUUID(const char *uuid, Card **out) {
    char path[4096];
    beside(path, sizeof path, "after");
    if (access(path, F_OK) == 0) {
        beside(path, sizeof path, "asked");
        FILE *file = fopen(path, "w");
        if (file) fclose(file);
    }
    for (int at = 0; at < count; at++)
        if (!strcmp(cards[at].uuid, uuid)) return *out = &cards[at], cards[at].is_denied ? NO_PERMISSION : OK;
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(Card *card, char *out, unsigned size) { return say(out, size, card->uuid); }
int nvmlDeviceGetName(Card *card, char *out, unsigned size) { return card->is_lost ? LOST : say(out, size, card->name); }
int nvmlDeviceGetMemoryInfo(Card *card, unsigned long long *out) {
    if (card->is_lost || !card->total) return card->is_lost ? LOST : NOT_SUPPORTED;
    out[0] = card->total, out[1] = card->free, out[2] = card->total - card->free;
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(Card *card, int *major, int *minor) {
    *major = card->major, *minor = card->minor;
    return card->major ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetMigMode(Card *card, unsigned *now, unsigned *next) {
    *now = *next = card->is_cut;
    return card->is_cut ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetMaxMigDeviceCount(Card *card, unsigned *out) { return *out = 7, OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(Card *card, unsigned index, Card **out) {
    return index % 2 ? NOT_FOUND : nth(index / 2, card, out); /* with gaps, as after some were removed */
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Card *card, Card **out) {
    return card->parent ? (*out = card->parent, OK) : INVALID;
}
int nvmlDeviceGetPciInfo_v3(Card *card, char *out) {
    memset(out, 0, 68);
    return card->bus[0] ? say(out + 36, 32, card->bus) : NOT_SUPPORTED;
}
int nvmlDeviceGetMemoryErrorCounter(Card *card, int kind, int counter, int location, unsigned long long *out) {
    return card->has_ecc[location] ? (*out = card->ecc[location], OK) : NOT_SUPPORTED;
}
int nvmlDeviceGetTotalEccErrors(Card *card, int kind, int counter, unsigned long long *out) {
    return card->has_ecc[8] ? (*out = card->ecc[8], OK) : NOT_SUPPORTED;
}
int nvmlDeviceGetCurrentClocksEventReasons(Card *card, unsigned long long *out) {
    return card->has_events ? (*out = card->events, OK) : NO_FUNCTION;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Card *card, unsigned long long *out) {
    return card->has_throttle ? (*out = card->throttle, OK) : NOT_SUPPORTED;
}
int nvmlDeviceGetFieldValues(Card *card, int wanted, Field *out) {
    for (int at = 0; at < wanted; at++) {
        out[at].result = NOT_SUPPORTED;
        for (int known = 0; known < card->fields; known++)
            if (card->field[known].id == out[at].id) {
                uint32_t scope = out[at].scope;
                out[at] = card->field[known];
                out[at].scope = scope;
            }
    }
    return OK;
}
