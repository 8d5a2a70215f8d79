/* What the kernel knows of this process. */
#ifndef HIE_OPS_PROCESS_STATS_H
#define HIE_OPS_PROCESS_STATS_H

struct process_stats {
    double cpu_seconds; /* user and system */
    double resident_bytes;
    double open_fds, max_fds;
    double start_seconds; /* since 1970 */
};

/* What cannot be read (no /proc in a sandbox) is 0. */
void process_stats_read(struct process_stats *ret);

#endif
