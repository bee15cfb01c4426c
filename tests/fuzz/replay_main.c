/* tests/fuzz/replay_main.c - runs a fuzz target once over each file of the folders given, for
 * builds without libFuzzer. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    uint8_t *p;
    size_t n;

    if (f == NULL || fstat(fileno(f), &st) != 0) {
        (void)fprintf(stderr, "cannot read %s\n", path);
        return 1;
    }
    p = malloc((size_t)st.st_size + 1);
    if (p == NULL) abort();
    n = fread(p, 1, (size_t)st.st_size, f);
    (void)fclose(f);
    (void)LLVMFuzzerTestOneInput(p, n);
    free(p);
    return 0;
}

int main(int argc, char **argv)
{
    int bad = 0, runs = 0;

    (void)LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        struct dirent *e;

        if (d == NULL) {
            bad |= run_file(argv[i]);
            runs++;
            continue;
        }
        while ((e = readdir(d)) != NULL) {
            char path[4096];

            if (e->d_name[0] == '.') continue;
            (void)snprintf(path, sizeof(path), "%s/%s", argv[i], e->d_name);
            bad |= run_file(path);
            runs++;
        }
        (void)closedir(d);
    }
    (void)printf("%d inputs replayed\n", runs);
    return bad;
}
