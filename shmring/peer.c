#include "shmring/peer.h"

#include "shmring/clock.h"
#include "shmring/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- locks ----------------------------------------------------------------------------------- */

/* A second open file description of the segment's file: locks belong to descriptions. Through
 * /proc, since the path may be out of reach by now. Not /proc/self, which is the main thread: when
 * that has ended and others go on, it has no descriptors. Where there is no /proc, by the path. */
static int open_again(struct shr_map *map)
{
    char proc[40];
    struct stat st;
    int fd = shr_segment_fd(map);
    if (fd < 0)
        return fd;
    snprintf(proc, sizeof(proc), "/proc/thread-self/fd/%d", fd);
    int again = shr_fd_apart(open(proc, O_RDWR | O_CLOEXEC));
    if (again < 0 && errno == ENOENT)
        again = shr_fd_apart(
            open(map->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
    if (again < 0)
        return errno == ENOENT ? -ESTALE : -errno;
    if (fstat(again, &st) == 0 && st.st_dev == map->dev && st.st_ino == map->ino)
        return again;
    close(again); /* the application put another file under the number just now */
    return -ESTALE;
}

static int lock_bytes(int fd, short type, uint64_t byte, uint64_t cnt)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = (off_t)cnt};
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

static int take(struct shr_map *map, short type, uint64_t byte, uint64_t cnt, struct shr_lock *lock)
{
    *lock = (struct shr_lock){.byte = byte, .page_bytes = map->geo.page_bytes};
    int fd = open_again(map);
    if (fd < 0)
        return fd;
    /* The page keeps the description, and with it the lock, until it is unmapped. It is there
     * before the lock, so that a fork by another thread finds the description in a short window
     * only: until the close a child inherits the descriptor, until it closes it or calls exec; and
     * from here to madvise the page, until it calls exec or ends. */
    void *page = mmap(NULL, lock->page_bytes, PROT_NONE, MAP_SHARED, fd, 0);
    int rc = page == MAP_FAILED ? -errno : 0;
    if (rc == 0 && madvise(page, lock->page_bytes, MADV_DONTFORK) != 0)
        rc = -errno;
    if (rc == 0)
        rc = lock_bytes(fd, type, byte, cnt);
    close(fd);
    if (rc == 0)
        lock->page = page;
    else if (page != MAP_FAILED)
        munmap(page, lock->page_bytes);
    return rc;
}

int shr_lock_take(struct shr_map *map, uint64_t byte, struct shr_lock *lock)
{
    return take(map, F_WRLCK, byte, 1, lock);
}

int shr_lock_take_all(struct shr_map *map, struct shr_lock *lock)
{
    return take(map, F_WRLCK, 0, SHR_LOCK_STANDBY + 1, lock);
}

int shr_lock_take_dead(struct shr_map *map, uint64_t slot, bool consumer, struct shr_lock *lock)
{
    short type = consumer ? F_RDLCK : F_WRLCK;
    int rc = take(map, type, slot, 1, lock);
    if (rc == 0 || rc == -EBUSY || rc == -ESTALE)
        return rc;
    int fd = shr_segment_fd(map);
    rc = fd < 0 ? fd : lock_bytes(fd, type, slot, 1);
    if (rc == 0)
        lock->map = map;
    return rc;
}

void shr_lock_drop(struct shr_lock *lock)
{
    if (lock->page != NULL)
        munmap(lock->page, lock->page_bytes);
    lock->page = NULL;
    if (lock->map == NULL)
        return;
    int fd = shr_segment_fd(
        lock->map); /* a new one if ours was closed, and then the lock is gone */
    if (fd >= 0)
        lock_bytes(fd, F_UNLCK, lock->byte, 1);
    lock->map = NULL;
}

/* The lock that somebody of this type who wanted the byte would be refused for; F_UNLCK: none. */
static int lock_met(struct shr_map *map, short type, uint64_t byte)
{
    int fd = shr_segment_fd(map);
    if (fd < 0)
        return fd;
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0)
        return errno == EBADF ? -ESTALE : -errno;
    return lock.l_type;
}

int shr_lock_held(struct shr_map *map, uint64_t byte)
{
    /* Asks as a reader, whom only a writer's lock refuses: that of an owner. Our own locks are of
     * other descriptions. */
    int type = lock_met(map, F_RDLCK, byte);
    return type < 0 ? type : type != F_UNLCK;
}

int shr_lock_strange(struct shr_map *map, uint64_t byte)
{
    int type = lock_met(map, F_WRLCK, byte);
    return type < 0 ? type : type == F_RDLCK;
}

/* ---- slots ----------------------------------------------------------------------------------- */

/* Only the slot's lock holder writes here, and the lock's system calls order two holders; a metrics
 * reader takes what it finds. So all stores are relaxed. But the holder may die between any two of
 * them, hence the compiler fences: what it leaves is a prefix. */
void shr_peer_enter(struct shr_map *map, uint32_t slot, const char *name)
{
    struct shr_peer *peer = &map->peers[slot];
    /* The look of a sweep finds every event that the consumer took. Ours finds one that a producer
     * dropped under the hands of a consumer, which wrote its hand after that look and was killed:
     * its successor counts the event as lost_in_crash, so the number is given. */
    uint64_t number = shr_peer_last_number(map, slot);

    /* USED is first: from here on a death leaves an unlocked, USED slot, which is what the sweep
     * looks for. A slot that is FREE is thus always as its last owner left it, at every
     * instruction. */
    shr_store32_relaxed(&peer->state, SHR_PEER_USED);
    shr_fence_compiler();
    /* The count comes before the claim that it may have been read from. */
    shr_store_relaxed(&peer->published, number);
    shr_fence_compiler();
    shr_store_relaxed(&peer->busy, 0);
    shr_store_relaxed(&peer->hand.pos, 0);
    shr_fence_compiler();
    shr_store_relaxed(&peer->hand.ref, 0);
    shr_store_relaxed(&peer->hand.meta, 0);
    shr_store_relaxed(&peer->hand.number, 0);
    shr_store_relaxed(&peer->hand.events, 0);
    /* The epoch is what makes chunks and topic rows ours: it is new before we can take any. */
    shr_store_relaxed(&peer->epoch, shr_load_relaxed(&peer->epoch) + 1);
    shr_fence_compiler();
    shr_text_store(peer->name, sizeof(peer->name) / sizeof(peer->name[0]), name);
    shr_store32_relaxed(&peer->waiting, SHR_WAIT_NONE);
    shr_store32_relaxed(&peer->pid, (uint32_t)getpid());
    shr_store_relaxed(&peer->joined_ns, shr_now_ns());
}

void shr_peer_exit(struct shr_map *map, uint32_t slot)
{
    struct shr_peer *peer = &map->peers[slot];
    shr_store32_relaxed(&peer->waiting, SHR_WAIT_NONE);
    shr_fence_compiler(); /* FREE is last: a death before it leaves the slot to the sweep */
    shr_store32_relaxed(&peer->state, SHR_PEER_FREE);
}

/* ---- hands and numbers ----------------------------------------------------------------------- */

bool shr_hand_read(const struct shr_hand *hand, struct shr_in_hand *h)
{
    /* edge S6 acquire: a hand that is empty or has gone on is done with what it named; one with a
     * position names its block. */
    h->pos = shr_load_acquire(&hand->pos);
    h->ref = shr_load_relaxed(&hand->ref);
    h->meta = shr_load_relaxed(&hand->meta);
    h->number = shr_load_relaxed(&hand->number);
    h->events = shr_load_relaxed(&hand->events);
    h->sum_before = shr_load_relaxed(&hand->sum_before);
    h->dropped_after = shr_load_relaxed(&hand->dropped_after);
    /* edge S11 acquire: had we read a field of the next event, we would see another position now.
     * edge S6 acquire: and then that the hand is done with the first. */
    shr_fence_acquire();
    return shr_load_acquire(&hand->pos) == h->pos && h->pos != 0;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return (int64_t)(b - a) > 0 ? b : a;
}

/* The number that the event at pos gives its producer, if that is the slot and it is beyond
 * `known`; else `known`. The cell may be reused while we look, and may hold anything. */
static uint64_t number_in_cell(const struct shr_map *map, uint32_t slot, uint64_t pos,
                               uint64_t known)
{
    const struct shr_cell *cell = &map->cells[shr_cell_index(pos, map->geo.cell_cnt)];
    uint64_t words[SHR_CELL_WORDS];
    /* edge R2 acquire: the body is whole. edge R11 acquire: if it is the state of a later lap, what
     * became of our event. */
    uint64_t state = shr_load_acquire(&cell->state);
    uint64_t tag = shr_state_tag(state);
    if (shr_state_pos(state) != pos || (tag != SHR_TAG_READY && tag != SHR_TAG_DONE))
        return known;
    shr_cell_copy(cell, words);
    /* edge R4 acquire: had we read a word of the next lap, we would see its claim here. */
    shr_fence_acquire();
    /* edge R11 acquire: if a lap is claimed behind pos, what became of our event. */
    uint64_t head = shr_load_acquire(&map->hot->head);
    if ((int64_t)(head - pos) >= (int64_t)map->geo.cell_cnt ||
        shr_meta_slot(words[SHR_WORD_META]) != slot)
        return known;
    uint32_t events = shr_words_events(words);
    if (events == 0 || events > map->geo.max_event)
        events = 1;
    return later(known, shr_extend(known, (uint32_t)words[SHR_WORD_NUMBER]) + events - 1);
}

uint64_t shr_peer_last_number(const struct shr_map *map, uint32_t slot)
{
    const struct shr_peer *peer = &map->peers[slot];
    uint64_t number = shr_load_relaxed(&peer->published);
    /* An event that its dead producer did not count goes from its cell to the consumer's hand, and
     * from there to `seen`. We look in this order: whoever finds it gone from one place finds it in
     * the next. The other way round it could pass us. */
    if (map->geo.exclusive != 0) {
        /* The order is READY, count, head: an uncounted event is at head, or just before it when
         * head was moved past it on behalf of the dead. */
        uint64_t head = shr_load_acquire(&map->hot->head);
        number = number_in_cell(map, slot, head - 1, number);
        number = number_in_cell(map, slot, head, number);
    } else {
        /* Acquire pairs with the release of busy after the count; see shr_publish. */
        uint64_t busy = shr_load_acquire(&peer->busy);
        if ((busy & SHR_BUSY_EXACT) != 0)
            number = number_in_cell(map, slot, busy >> 1, number);
    }
    /* Without drops the cell stays the event's until `seen` has it. */
    struct shr_in_hand h;
    if (map->geo.policy == SHR_DROP_OLDEST && shr_hand_read(&map->hands[0], &h) &&
        shr_meta_slot(h.meta) == slot)
        number = later(number, h.number + h.events - 1);
    /* Relaxed: what it must have came with the loads above, over R11 and S6. */
    return later(number, shr_load_relaxed(&map->track[slot].seen));
}

/* ---- text ------------------------------------------------------------------------------------ */

void shr_text_store(shr_a64 *word, uint32_t words, const char *text)
{
    size_t left = strnlen(text, words * 8u - 1);
    for (uint32_t i = 0; i < words; i++) {
        uint64_t value = 0;
        size_t part = left < 8 ? left : 8;
        memcpy(&value, text, part);
        shr_store_relaxed(&word[i], value);
        text += part;
        left -= part;
    }
}

void shr_text_load(const shr_a64 *word, uint32_t words, char *text)
{
    for (uint32_t i = 0; i < words; i++) {
        uint64_t value = shr_load_relaxed(&word[i]);
        memcpy(text + 8 * i, &value, 8);
    }
    text[words * 8 - 1] = '\0';
}
