/* computed/backend/load.c - finds a backend by its name. */
#include "computed/backend/backend.h"
#include "computed/backend/ref/ref.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The folder of the running program. */
static bool own_dir(char *path, size_t cap)
{
    ssize_t n = readlink("/proc/self/exe", path, cap - 1);
    char *slash;

    if (n <= 0) return false;
    path[n] = '\0';
    slash = strrchr(path, '/');
    if (slash == NULL) return false;
    *slash = '\0';
    return true;
}

enum rc be_load(const char *name, const char *dir, const struct be_ops **ret_ops,
                struct err *reterr)
{
    const struct be_ops *ops;
    char own[4096], path[4352];
    be_entry entry;
    void *lib, *sym;

    if (strcmp(name, "ref") == 0) {
        *ret_ops = ref_backend();
        return RC_OK;
    }
    if (name[0] == '\0' || strlen(name) > 32 ||
        strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789") != strlen(name))
        return err_set(reterr, RC_INVAL, "'%.32s' is no name of a backend", name);
    if (dir == NULL) dir = getenv("MIKURA_BACKENDS");
    if (dir == NULL && own_dir(own, sizeof(own))) dir = own;
    if (dir == NULL) return err_set(reterr, RC_NOTFOUND, "no folder with backends");
    if (snprintf(path, sizeof(path), "%s/computed_%s.so", dir, name) >= (int)sizeof(path))
        return err_set(reterr, RC_INVAL, "the folder's name is too long");
    /* libgomp reads this once, when it is loaded with the plugin; its threads
     * spin otherwise and on a busy machine two of them ran at a tenth of one
     * (measured). The operator's own setting stays. */
    (void)setenv("OMP_WAIT_POLICY", "passive", /* overwrite= */ 0);
    lib = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (lib == NULL) return err_set(reterr, RC_NOTFOUND, "backend '%s': %.300s", name, dlerror());
    sym = dlsym(lib, BE_SYMBOL);
    if (sym == NULL) {
        (void)dlclose(lib);
        return err_set(reterr, RC_INVAL, "%.300s has no symbol " BE_SYMBOL, path);
    }
    memcpy(&entry, &sym, sizeof(entry)); /* POSIX allows it, ISO C has no cast for it */
    ops = entry();
    if (ops->abi != BE_ABI || strcmp(ops->name, name) != 0)
        return err_set(reterr, RC_INVAL, "%.300s is backend '%.32s' of interface %u, not %u", path,
                       ops->name, ops->abi, BE_ABI);
    *ret_ops = ops;
    return RC_OK;
}
