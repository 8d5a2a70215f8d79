/* The name of a process in its fleet: rows, leases, consumers and channels are held under it. */
#ifndef HIE_OPS_IDENTITY_H
#define HIE_OPS_IDENTITY_H

#define IDENTITY_HOST_SIZE 49 /* with the NUL */
#define IDENTITY_SIZE 96

/* This host's name as letters, digits, '.', '-' and '_'; a longer one is cut. */
void identity_host(char ret[static IDENTITY_HOST_SIZE]);
/* "<prefix><host>-<process id>-<64 random bits in hex>", a new one each time. The random bits alone keep two apart: in containers every
 * process may be number 1, and hosts may share a name. `prefix` has at most 11 characters. */
void identity_make(const char *prefix, char ret[static IDENTITY_SIZE]);

#endif
