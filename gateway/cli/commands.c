/* gateway/cli/commands.c - every command with its options and its help. Commands of one group stand
 * together. */
#include "gateway/cli/cli.h"

#define PARALLEL_OPT                                                                               \
    {                                                                                              \
        "parallel", "N", "files at a time (8)"                                                     \
    }
#define VERSION_OPT                                                                                \
    {                                                                                              \
        "object-version", "N", "an older version (the newest)"                                     \
    }
#define JSON_ONLY NULL

static const struct cli_opt CREATE[] = {
    {"society", "NAME", "whose agents may write (the collection's name)"},
    {"kind", "KIND", "endoscopy, pathology, radiology, ophthalmology or other (other)"},
    {"deid-profile", "NAME", "the de-identification profile: see mikura deid profile"},
    {"unchecked", NULL, "instead of one: accept that nothing inspects de-identification"},
    {"chunk", "SIZE", "a multiple of 1MiB up to 64MiB (8MiB)"},
    {"quota", "SIZE", "most bytes it may hold (no limit)"},
    {"target-cases", "N", "registration target, for progress"},
    {"target-hospitals", "N", "number of facilities, for progress"},
    {"index", "NAME", "attribute kept in clear for queries, e.g. dicom.Modality; repeatable"},
    {0}};
static const struct cli_opt GRANT[] = {{"remove", NULL, "take the grant away"}, {0}};
static const struct cli_opt PUT[] = {
    {"collection", "NAME", "needed: where to"},
    {"case", "NAME", "all files into this case (DICOM: its study; others: their folder or stem)"},
    {"path", "PATH", "the object's path; from stdin only"},
    {"receipts", "FILE", "append the cluster's signed receipts, for `mikura receipt verify`"},
    {"deid-profile", "NAME|FILE", "check here, by this profile, and send what it accepts only"},
    {"looked", NULL, "with it: send what only a look at the pixels settles, too"},
    {"inspect", "FILE", "with it: mikura-inspect (beside this program)"},
    PARALLEL_OPT,
    {0}};
static const struct cli_opt GET[] = {{"o", "FILE", "where to: a file, a folder, or '-' for stdout"},
                                     {"offset", "SIZE", "from this byte"},
                                     {"length", "SIZE", "so many bytes (to the end)"},
                                     VERSION_OPT,
                                     PARALLEL_OPT,
                                     {0}};
static const struct cli_opt LS[] = {{"r", NULL, "objects of all cases, not the cases"},
                                    {"prefix", "TEXT", "only names that begin so"},
                                    {0}};
static const struct cli_opt STAT[] = {VERSION_OPT, {0}};
static const struct cli_opt RM[] = {
    {"yes", NULL, "do not ask"}, {"object-version", "N", "this version only (all versions)"}, {0}};
static const struct cli_opt QUERY[] = {{"limit", "N", "at most so many (all)"}, {0}};
static const struct cli_opt MODEL_ADD[] = {{"name", "NAME", "[a-z0-9-] (the file's stem)"}, {0}};
static const struct cli_opt VERIFY[] = {
    {"keys", "FILE", "output of `mikura receipt keys --json` (else the cluster is asked)"},
    {"files", NULL, "the files are still here: compare their bytes too"},
    {0}};
#define RESULTS_OPTS                                                                               \
    {"format", "FORMAT", "table, csv or json (table)"},                                            \
    {                                                                                              \
        "by", "WHAT", "csv: item, case, or slice of a series (item)"                               \
    }
static const struct cli_opt SUBMIT[] = {
    {"model", "NAME[@V]", "needed; see mikura model ls"},
    {"kind", "KIND", "quality, classify or segment (quality)"},
    {"collection", "NAME", "instead of a query: all of this collection; repeatable"},
    {"param", "NAME=VALUE", "of the analysis; repeatable"},
    {"device", "WHICH", "any, cpu or gpu (any)"},
    {"limit", "N", "at most so many images (all)"},
    {"watch", NULL, "wait with a progress bar, then print the results"},
    RESULTS_OPTS,
    {0}};
static const struct cli_opt RESULTS[] = {
    RESULTS_OPTS,
    {"masks", "FOLDER", "of kind segment: label maps into FOLDER/COLLECTION/CASE/..."},
    {"partial", NULL, "what there is so far of a running job"},
    {0}};

static const struct cli_opt RELEASE[] = {VERSION_OPT, {0}};
#define DEID_OPTS                                                                                  \
    {"profile", "NAME|FILE", "shipped, see mikura deid profile, or a file's path (default)"},      \
        {"record", "FILE", "append what was found and changed, one JSON object a file"},           \
        {"pseudonym-key", "FILE", "for what is replaced; see mikura deid key"},                    \
    {                                                                                              \
        "inspect", "FILE", "mikura-inspect (beside this program)"                                  \
    }
static const struct cli_opt DEID_CHECK[] = {
    DEID_OPTS, {"deidentify", NULL, "tell the outcome after cleaning"}, {0}};
static const struct cli_opt DEID_CLEAN[] = {
    DEID_OPTS, {"o", "FOLDER", "needed: where the cleaned files go"}, {0}};
#define CONNECTION_OPT                                                                             \
    {                                                                                              \
        "connection", "FILE", "the connection's profile; else MIKURA_PROFILE, else ~/.config/..."  \
    }
#define STATE_OPT                                                                                  \
    {                                                                                              \
        "state", "DIR", "the agent's folder: journal, receipts, quarantine"                        \
    }
static const struct cli_opt AGENT_RUN[] = {
    {"collection", "NAME", "needed: where to"},
    STATE_OPT,
    {"config", "FILE", "settings as key = value; read again at SIGHUP or when it changes"},
    {"case-by", "WHEN", "a case is complete: quiet (no change), marker (a file), list (quiet)"},
    {"quiet-for", "TIME", "so long without a change (60s)"},
    {"marker", "NAME", "the file that completes its case's folder (_COMPLETE)"},
    {"list", "FILE", "case list: .csv or .json with case_id, folder, facility, history, labels"},
    {"rescan", "TIME", "look at all folders again, events or not (5m)"},
    {"bandwidth", "RULES", "'mon-fri 08:00-18:00 2MiB/s; sat,sun off; unlimited' (no limit)"},
    {"parallel", "N", "chunks at a time (4)"},
    {"cases", "N", "cases at a time (2)"},
    {"once", NULL, "end when all that is there is sent"},
    {"partial", NULL, "send a case without its files that are held"},
    {"profile", "NAME|FILE", "of de-identification (the collection's); none: unchecked ones only"},
    {"deidentify", NULL, "clean what cleaning mends; without it such files are held"},
    {"pseudonym-key", "FILE", "for what is replaced; see mikura deid key"},
    {"inspect", "FILE", "mikura-inspect (beside this program)"},
    CONNECTION_OPT,
    {"dry-run", NULL, "send nothing, tell what would happen to files"},
    {"record", "FILE", "dry-run: append what was found, one JSON object a file"},
    {0}};
static const struct cli_opt AGENT_STATUS[] = {STATE_OPT, {0}};
static const struct cli_opt AGENT_RETRY[] = {
    STATE_OPT,
    {"looked", NULL, "a person has looked at the pixels of what is held: let it pass"},
    {"all", NULL, "with --looked and no case named: all of them"},
    {0}};
static const struct cli_opt AGENT_VERIFY[] = {
    STATE_OPT, {"collection", "NAME", "needed"}, CONNECTION_OPT, {0}};

static const struct cli_opt WATCH[] = {{"watch", NULL, "again every 2 s until all is done"}, {0}};
#define CHANGE_OPTS                                                                                \
    {"dry-run", NULL, "only show what would move"}, {"yes", NULL, "do not ask"},                   \
    {                                                                                              \
        "watch", NULL, "wait until it is done, with progress"                                      \
    }
static const struct cli_opt CHANGE[] = {CHANGE_OPTS, {0}};
static const struct cli_opt DRAIN[] = {
    CHANGE_OPTS,
    {"narrower", NULL, "accept that copies lie closer together (two in one zone, rack or host)"},
    {0}};
static const struct cli_opt RECOVER[] = {
    {"dry-run", NULL, "only tell what would be made"}, {"apply", NULL, "write it"}, {0}};
#define NODE_HELP                                                                                  \
    "Shows what will move, then asks (where there is a terminal), then does it in the "            \
    "background. "                                                                                 \
    "It\ngoes on whatever happens to gateways and nodes; follow it with `node ls --watch`.\n"

const struct command COMMANDS[] = {
    {"collection create", "NAME", 1, 1, "make a collection (operators)", CREATE,
     "Making it again with the same settings changes nothing.\nexamples:\n"
     "  mikura collection create endoscopy --kind endoscopy --society jges --deid-profile "
     "endoscopy\n"
     "  mikura collection create ct --society radiology --unchecked --index dicom.Modality\n",
     cmd_collection_create},
    {"collection grant", "NAME WHO", 2, 2, "let a researcher read it (operators)", GRANT,
     "WHO is a researcher's name or a certificate's URI.\nexamples:\n"
     "  mikura collection grant endoscopy sato\n"
     "  mikura collection grant endoscopy mikura://researcher/sato --remove\n",
     cmd_collection_grant},
    {"collection ls", "", 0, 0, "the collections that you may see", JSON_ONLY,
     "example:\n  mikura collection ls --json | jq -r .name\n", cmd_collection_ls},
    {"collection show", "NAME", 1, 1, "one collection, with its grants (operators)", JSON_ONLY,
     "example:\n  mikura collection show endoscopy\n", cmd_collection_show},
    {"put", "FILE|FOLDER|- ...", 1, CLI_ARGS_MAX, "store files as cases (society agents)", PUT,
     "DICOM files make one case a StudyInstanceUID; any other file belongs to the case of the "
     "folder\n"
     "it lies in, or of its own stem where it lies directly in the folder given. Each case "
     "becomes\n"
     "visible as a whole. Digests are computed here and compared with what is stored. The same\n"
     "command after a break goes on where it was. Exit 9: some files were refused; they are "
     "named.\n"
     "examples:\n"
     "  mikura put ./endoscopy --collection endoscopy --deid-profile endoscopy\n"
     "  mikura put a.jpg b.jpg --collection endoscopy --case colon-17\n"
     "  tar c slides | mikura put - --collection pathology --case p-3 --path slides.tar\n",
     cmd_put},
    {"receipt keys", "", 0, 0, "the public keys that receipts are signed with", JSON_ONLY,
     "example:\n  mikura receipt keys --json >receipt-keys.json\n", cmd_receipt_keys},
    {"receipt verify", "FILE|-", 1, 1, "check signed receipts, offline with --keys", VERIFY,
     "FILE is what `mikura put --receipts FILE` wrote, or the output of `mikura put --json`. A "
     "receipt\n"
     "proves that the cluster stored these names, sizes and digests. Exit 13: one does not.\n"
     "examples:\n"
     "  mikura receipt verify receipts.json --keys receipt-keys.json\n"
     "  mikura receipt verify receipts.json --keys receipt-keys.json --files\n",
     cmd_receipt_verify},
    {"get", "COLLECTION[/CASE[/PATH]]", 1, 1, "fetch an object, a case, a collection", GET,
     "A file appears under its name when it is whole and its digest was checked; files that are\n"
     "there already are kept. Folders are COLLECTION/CASE/PATH's last parts.\nexamples:\n"
     "  mikura get endoscopy/colon-17/a.jpg\n"
     "  mikura get endoscopy/colon-17/a.jpg -o - --offset 1MiB --length 64KiB | xxd | head\n"
     "  mikura get endoscopy -o ./endoscopy\n",
     cmd_get},
    {"ls", "[COLLECTION[/CASE[/PREFIX]]]", 0, 1, "list collections, cases or objects", LS,
     "examples:\n  mikura ls\n  mikura ls endoscopy\n  mikura ls endoscopy/colon-17\n"
     "  mikura ls -r endoscopy --json\n",
     cmd_ls},
    {"stat", "COLLECTION[/CASE[/PATH]]", 1, 1, "facts, digests and attributes", STAT,
     "example:\n  mikura stat endoscopy/colon-17/a.jpg\n", cmd_stat},
    {"rm", "COLLECTION/CASE/PATH", 1, 1, "remove an object, destroy its keys (operators)", RM,
     "examples:\n  mikura rm endoscopy/colon-17/a.jpg\n"
     "  mikura rm endoscopy/colon-17/a.jpg --object-version 3 --yes\n",
     cmd_rm},
    {"query", "EXPRESSION", 1, 1, "find images by their attributes (researchers)", QUERY,
     "Names: collection, case, path, media_type, size, and attributes. Operators: = != < <= > >=\n"
     "in contains prefix exists and or not. Grammar: gateway/query/README.md\nexamples:\n"
     "  mikura query 'collection = radiology and dicom.Modality = CT'\n"
     "  mikura query 'collection in (endoscopy, pathology) and image.width >= 512' --limit 10\n",
     cmd_query},
    {"model add", "FILE.onnx", 1, 1, "store an ONNX model for jobs", MODEL_ADD,
     "example:\n  mikura model add deploy/models/quality.onnx --name quality\n", cmd_model_add},
    {"model ls", "", 0, 0, "the models", JSON_ONLY, "example:\n  mikura model ls\n", cmd_model_ls},
    {"job submit", "[QUERY]", 0, 1, "analyse a cohort (researchers)", SUBMIT,
     "The cohort is fixed to exact object versions now; later uploads do not change the job.\n"
     "examples:\n"
     "  mikura job submit 'collection = endoscopy' --model quality --watch\n"
     "  mikura job submit --collection pathology --collection radiology --model quality@1\n"
     "  mikura job submit --collection eye --model resnet50 --kind classify --param size=224x224 "
     "\\\n    --param resize=crop:0.875 --param mean=0.485,0.456,0.406 --param "
     "std=0.229,0.224,0.225 --device any\n"
     "  mikura job submit 'collection = radiology and dicom.Modality = \"CT\"' --model lungs \\\n"
     "    --kind segment --param size=64x256x256 --param window=-600,1500\n"
     "By a model that takes volumes (input [N, C, slices, rows, columns]) the one-frame DICOM "
     "objects\n"
     "of a series are one item: ordered by position along the slices' normal, else by "
     "InstanceNumber\n"
     "(the result says so). An incomplete or mixed series is set aside with its reason. Results "
     "name\n"
     "each slice and its version.\n"
     "--param of classify and segment: size, resize, window, mean, std; of classify: apply, top; "
     "of\n"
     "segment: masks; of quality: tiles_max; of all: precision.\n",
     cmd_job_submit},
    {"job watch", "ID", 1, 1, "follow a job until it ends", JSON_ONLY,
     "Exit 14: it failed or was cancelled.\nexample:\n  mikura job watch "
     "00112233445566778899aabbccddeeff\n",
     cmd_job_watch},
    {"job ls", "", 0, 0, "your jobs (operators: all), newest first", JSON_ONLY,
     "example:\n  mikura job ls --json | jq -r 'select(.state == \"JOB_RUNNING\") | .id'\n",
     cmd_job_ls},
    {"job show", "ID", 1, 1, "one job: state, model, parameters", JSON_ONLY,
     "example:\n  mikura job show 00112233445566778899aabbccddeeff\n", cmd_job_show},
    {"job results", "ID", 1, 1, "what it found, by image and by case", RESULTS,
     "examples:\n  mikura job results 00112233445566778899aabbccddeeff\n"
     "  mikura job results 00112233445566778899aabbccddeeff --format csv > items.csv\n"
     "  mikura job results 00112233445566778899aabbccddeeff --format csv --by case > cases.csv\n"
     "  mikura job results 00112233445566778899aabbccddeeff --format csv --by slice > slices.csv\n"
     "  mikura job results 00112233445566778899aabbccddeeff --masks ./masks\n"
     "A mask has one label a place: 0, 1, ... in the order of the model's classes (one class: 1 "
     "is\n"
     "foreground). Pictures: PNG; volumes: NIfTI-1 (.nii.gz), in the patient's millimetres where "
     "the\n"
     "slices of a series say where they lie. They are as large as the model's output.\n",
     cmd_job_results},
    {"job rm", "ID", 1, 1, "delete a job that has ended, with results and masks", JSON_ONLY,
     "example:\n  mikura job rm 00112233445566778899aabbccddeeff\n", cmd_job_rm},
    {"job cancel", "ID", 1, 1, "start no more of its tasks", JSON_ONLY,
     "example:\n  mikura job cancel 00112233445566778899aabbccddeeff\n", cmd_job_cancel},
    {"node ls", "", 0, 0, "gateways, storage nodes, workers (operators)", WATCH,
     "STATE of a storage node: new (waits for `node add`), in, draining, drained, removed. MOVES: "
     "copies\nof groups still to come or go, with how much that is and when it may end.\n"
     "examples:\n  mikura node ls\n  mikura node ls --watch\n",
     cmd_node_ls},
    {"node add", "NAME", 1, 1, "let a new storage node in: groups move onto it (operators)", CHANGE,
     NODE_HELP "examples:\n  mikura node add storaged-4 --dry-run\n  mikura node add storaged-4 "
               "--watch\n",
     cmd_node_add},
    {"node drain", "NAME", 1, 1, "empty a storage node, keeping every copy (operators)", DRAIN,
     NODE_HELP "Refused when fewer copies than promised would be left, or they would lie closer "
               "together\nthan now.\nexamples:\n  mikura node drain storaged-2 --dry-run\n"
               "  mikura node drain storaged-2 --watch\n",
     cmd_node_drain},
    {"node undrain", "NAME", 1, 1, "take a drain back (operators)", CHANGE,
     NODE_HELP "example:\n  mikura node undrain storaged-2\n", cmd_node_undrain},
    {"node remove", "NAME", 1, 1, "give up a node that is dead, or drained and stopped (operators)",
     CHANGE,
     NODE_HELP "Its copies are made elsewhere at once; without this only after disk_patience.\n"
               "example:\n  mikura node remove storaged-2 --dry-run\n",
     cmd_node_remove},
    {"node replace", "NAME NEW", 2, 2, "let NEW in and give NAME up, or drain it (operators)",
     DRAIN,
     NODE_HELP "NAME is removed when it is away, drained when it runs.\n"
               "example:\n  mikura node replace storaged-2 storaged-4 --dry-run\n",
     cmd_node_replace},
    {"group ls", "", 0, 0, "placement groups and their replicas (operators)", JSON_ONLY,
     "example:\n  mikura group ls --json | jq -r 'select(.health != \"HEALTH_OK\")'\n",
     cmd_group_ls},
    {"key create", "FILE", 1, 1, "make a master key file; never overwrites", JSON_ONLY,
     "Without this file nothing stored can ever be read again. Works without a cluster.\n"
     "example:\n  mikura key create /etc/mikura/master.key\n",
     cmd_key_create},
    {"key status", "", 0, 0, "which master key is in use (operators)", JSON_ONLY,
     "Exit 15: it is not the cluster's.\nexample:\n  mikura key status\n", cmd_key_status},
    {"key export", "FILE TO", 2, 2, "copy a master key file, checked by reading back", JSON_ONLY,
     "Works without a cluster, on the gateway's machine.\nexample:\n"
     "  mikura key export /etc/mikura/master.key /media/safe/mikura-master.key\n",
     cmd_key_export},
    {"admin recover-config", "", 0, 0, "make etcd's content again from the storage nodes", RECOVER,
     "When etcd was lost: the cluster's id, pools and groups are made again from what the disks "
     "keep. "
     "It\ncan lose nothing: a replica that may be empty or old is never chosen, and nothing is "
     "written while\na group can't be decided. Start every storage node and one gateway first; "
     "gateways that then end\nare to be started again.\nexamples:\n"
     "  mikura admin recover-config --dry-run\n  mikura admin recover-config --apply\n",
     cmd_recover_config},
    {"status", "", 0, 0, "the cluster's health, with what to do (operators)", WATCH,
     "Exit 15: not all is well. Collections that nothing inspects are named in red.\n"
     "example:\n  mikura status\n",
     cmd_status},
    {"health", "", 0, 0, "does each gateway serve?", JSON_ONLY,
     "Any valid certificate will do. Exit 15: some do not, 10: none does.\n"
     "example:\n  mikura health\n",
     cmd_health},
    {"quarantine ls", "COLLECTION[/CASE]", 1, 1, "what a collection's profile holds back",
     JSON_ONLY,
     "The society's agents and operators. Reasons name rules and places, never values.\nexample:\n"
     "  mikura quarantine ls endoscopy --as society/jges/a1\n",
     cmd_quarantine_ls},
    {"quarantine release", "COLLECTION/CASE/PATH", 1, 1, "publish after a person looked (agents)",
     RELEASE,
     "Only what is held back for its pixels; what breaks another rule is cleaned at the site.\n"
     "example:\n  mikura quarantine release endoscopy/colon-17/a.jpg --object-version 1\n",
     cmd_quarantine_release},
    {"deid check", "FILE|FOLDER ...", 1, CLI_ARGS_MAX, "what a profile says of local files",
     DEID_CHECK,
     "Works without a cluster and changes nothing. Outcomes: accepted, refused (a rule is "
     "broken),\n"
     "quarantined (a person must look at the pixels), opaque (not read, by the profile). Rules "
     "and\n"
     "places are printed, never values. Exit 9: some are refused or quarantined.\nexamples:\n"
     "  mikura deid check --profile radiology ./study --json\n"
     "  mikura deid check --profile ./jsp.profile --deidentify slide.svs\n",
     cmd_deid_check},
    {"deid clean", "FILE|FOLDER ...", 1, CLI_ARGS_MAX, "copies without what a profile forbids",
     DEID_CLEAN,
     "Removes, empties or replaces by keyed pseudonyms; the result is checked again. Files that\n"
     "stay refused are not written; quarantined ones are, for a person to look at.\nexample:\n"
     "  mikura deid clean --profile radiology --pseudonym-key site.key ./study -o ./clean\n",
     cmd_deid_clean},
    {"deid key", "FILE", 1, 1, "make a pseudonym key; never overwrites", JSON_ONLY,
     "Who has it can tell whether two pseudonyms are of one patient, and test a guess. It stays "
     "at\n"
     "the site. Without it later files of a patient get other pseudonyms.\nexample:\n"
     "  mikura deid key /etc/mikura/site.key\n",
     cmd_deid_key},
    {"deid profile", "[NAME]", 0, 1, "the shipped profiles, or one's text", JSON_ONLY,
     "example:\n  mikura deid profile radiology > jrs.profile\n", cmd_deid_profile},
    {"agent run", "[FOLDER ...]", 0, CLI_ARGS_MAX, "send a society's cases as they get complete",
     AGENT_RUN,
     "Each entry of a FOLDER is a case: a folder with all below, or a file. A case is checked by\n"
     "the collection's rules, sent (small files packed, large ones in chunks), published whole; "
     "its\n"
     "receipt is kept in DIR/receipts. Killed, rebooted or without a line for a week it goes on\n"
     "where it was. What is held is told in DIR/quarantine, a file each. Off a terminal and with\n"
     "--json events are JSON objects, one a line. Exit 9: --once, and cases are set aside; 8:\n"
     "another agent has DIR; 13: DIR/journal is damaged.\n"
     "examples:\n"
     "  mikura agent run /data/out --collection endoscopy --state /var/lib/mikura-agent\n"
     "  mikura agent run --config /etc/mikura/agent.conf\n"
     "  mikura agent run ./study --collection ct --state ./st --once --deidentify --pseudonym-key "
     "k\n"
     "  mikura agent run --dry-run --json --profile radiology ./study\n",
     cmd_agent_run},
    {"agent status", "", 0, 0, "what the agent has done, and what it waits for", AGENT_STATUS,
     "Reads the journal, beside a running agent too. Exit 9: cases are set aside.\n"
     "example:\n  mikura agent status --state /var/lib/mikura-agent\n",
     cmd_agent_status},
    {"agent retry", "[CASE ...]", 0, CLI_ARGS_MAX, "try again what is set aside", AGENT_RETRY,
     "Leaves a word for the agent that runs, or the next one.\n"
     "examples:\n"
     "  mikura agent retry --state /var/lib/mikura-agent\n"
     "  mikura agent retry colon-17 --looked --state /var/lib/mikura-agent\n",
     cmd_agent_retry},
    {"agent verify", "", 0, 0, "compare journal and receipts with the store", AGENT_VERIFY,
     "Signatures, Merkle roots, and each object's size and digest as the cluster has them; "
     "nothing\n"
     "is read back. Exit 13: something is not as its receipt says.\n"
     "example:\n  mikura agent verify --collection endoscopy --state /var/lib/mikura-agent\n",
     cmd_agent_verify},
    {"completion", "bash", 1, 1, "the shell's completion", JSON_ONLY,
     "example:\n  mikura completion bash > /etc/bash_completion.d/mikura\n", cmd_completion},
    {0},
};
