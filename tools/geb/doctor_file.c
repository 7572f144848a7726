/* geb doctor: the directory of the buses, and files in it that are none. */
#include "tools/geb/doctor.h"

#include "shmring/segment.h"
#include "tools/common.h"
#include "tools/geb/look.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file that is no bus of ours, with one finding, or none if it is all right. */
static void stale_add(struct doctor *doctor, const char *path, const char *why, int64_t version,
                      const char *did, const char *todo)
{
    char subject[DOCTOR_TEXT_BYTES], what[DOCTOR_TEXT_BYTES];
    json_t *findings = json_array(), *file = json_object();
    if (version >= 0)
        doctor_text(what, "%s %" PRId64, why, version);
    else
        doctor_text(what, "%s", why);
    if (did != NULL || todo != NULL) {
        doctor_find(doctor, findings, what, did, todo);
        doctor_text(subject, "%s", path);
    } else {
        doctor_text(subject, "%s: %s", path, what);
    }
    json_object_set_new(file, "path", look_text(path));
    json_object_set_new(file, "why", json_string(why));
    if (version >= 0)
        json_object_set_new(file, "layout_version", json_integer(version));
    json_object_set(file, "findings", findings);
    json_array_append_new(doctor->stale, file);
    doctor_print(doctor, subject, findings);
    json_decref(findings);
}

/* What a creator left that died. */
static void draft_look(struct doctor *doctor, const char *path)
{
    char text[DOCTOR_TEXT_BYTES];
    int rc = shr_draft_check(path, doctor->fix);
    if (rc == -EBUSY)
        stale_add(doctor, path, "a bus is being made", -1, NULL, NULL);
    else if (rc == 0)
        stale_add(doctor, path, "the creator of a bus died", -1, doctor->fix ? "removed" : NULL,
                  "geb doctor --fix");
    else if (rc != -ENOENT)
        stale_add(doctor, path, "is no bus", -1, NULL,
                  doctor_command(text, tool_remover(path), path));
}

static void file_look(const char *path, const char *name, void *user)
{
    struct doctor *doctor = user;
    struct stat st;
    uint32_t version = 0;
    char remove_bus[DOCTOR_TEXT_BYTES], remove_file[DOCTOR_TEXT_BYTES], list[DOCTOR_TEXT_BYTES];
    doctor_command(remove_bus, "geb rm --force", path);
    doctor_command(remove_file, tool_remover(path), path);
    doctor_command(list, "ls -la", path);
    if (strncmp(name, ".geb-", 5) == 0) {
        draft_look(doctor, path);
        return;
    }
    if (doctor->is_ours && lstat(path, &st) == 0 && st.st_uid != geteuid())
        stale_add(doctor, path, "belongs to somebody else, who can damage it", -1, NULL,
                  remove_file);
    int rc = doctor_bus(doctor, path);
    int magic = tool_magic(path, &version);
    doctor->unseen_cnt += rc < 0 && rc != -ENOENT && (rc != -EBADMSG || magic == 1);
    if (rc == -EPROTO && magic == 1)
        stale_add(doctor, path, "has layout version", version, NULL, remove_bus);
    else if (rc == -EBADMSG && magic == 1)
        stale_add(doctor, path, "is a damaged bus, of layout version", version, NULL, remove_bus);
    else if (rc == -EACCES)
        stale_add(doctor, path, "cannot be looked at: no permission", -1, NULL, list);
    else if (rc == -EBADMSG)
        stale_add(doctor, path, "is no bus", -1, NULL, remove_file);
    else if (rc < 0 && rc != -ENOENT) /* which was removed just now */
        stale_add(doctor, path, "cannot be looked at", -1, NULL, list);
}

void doctor_files(struct doctor *doctor, const char *dir)
{
    char list[DOCTOR_TEXT_BYTES];
    int rc = look_directory(dir, file_look, doctor);
    if (rc >= 0 || rc == -ENOENT)
        return;
    doctor->unseen_cnt++;
    stale_add(doctor, dir, rc == -EACCES ? "cannot be listed: no permission" : strerror(-rc), -1,
              NULL, doctor_command(list, "ls -lad", dir));
}

/* The directory that geb makes must be ours, and nobody else may write to it. */
void doctor_directory(struct doctor *doctor, const char *dir)
{
    struct stat st;
    char text[DOCTOR_TEXT_BYTES];
    const char *chosen = getenv("GEB_DIR");
    if (chosen != NULL && chosen[0] != '\0')
        return;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return;
    if (lstat(dir, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid()) {
        stale_add(doctor, dir, "is in the way: it is no directory of yours; use another one", -1,
                  NULL, "export GEB_DIR=\"$(mktemp -d -p /dev/shm)\"");
    } else {
        doctor->is_ours = true;
        bool is_wrong = (st.st_mode & (S_IWGRP | S_IWOTH)) != 0 ||
                        (st.st_mode & S_IRWXU) != S_IRWXU;
        /* Without a descriptor its mode keeps us out of it, and it is as safe to go by its name:
         * it is our own, and /dev/shm is sticky. */
        bool is_fixed = is_wrong && doctor->fix &&
                        (fd >= 0 ? fchmod(fd, S_IRWXU) : chmod(dir, S_IRWXU)) == 0;
        if (is_wrong)
            stale_add(doctor, dir, "has a mode with which geb refuses it", -1,
                      is_fixed ? "its mode is 0700" : NULL,
                      doctor->fix ? doctor_command(text, "chmod 0700", dir) : "geb doctor --fix");
    }
    if (fd >= 0)
        close(fd);
}
