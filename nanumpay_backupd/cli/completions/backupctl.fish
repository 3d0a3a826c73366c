# fish completion for backupctl. Written by `make man` from the program's own parser.

# Prints the command (or a dash) and which of its arguments is being typed, counted from 1.
function __backupctl_place
    set -l tokens (commandline -opc)
    set -l command -
    set -l at 1
    set -l value no
    for token in $tokens[2..-1]
        if test $value = yes
            set value no
            continue
        end
        switch $token
            case --accept --at --backup --collection --color --config --days --format --from --html --job --kind --language --level --only --only-to --option --reason --role --scope --socket --timeout --to --to-db -n
                set value yes
            case '-*'
            case '*'
                if test $command = -
                    set command $token
                else
                    set at (math $at + 1)
                end
        end
    end
    echo $command $at
end

# Is the command one of these?
function __backupctl_in
    set -l place (__backupctl_place | string split ' ')
    contains -- $place[1] $argv
end

# Is it this argument of this command?
function __backupctl_at
    test (__backupctl_place) = "$argv"
end

# Prints the words that the daemon knows.
function __backupctl_words
    set -l tokens (commandline -opc)
    set -l socket
    for i in (seq (count $tokens))
        if string match -q -- '--socket=*' $tokens[$i]
            set socket --socket (string replace -- --socket= '' $tokens[$i])
        else if test $tokens[$i] = --socket; and set -q tokens[(math $i + 1)]
            set socket --socket $tokens[(math $i + 1)]
        end
    end
    $tokens[1] complete $socket $argv 2>/dev/null
end

complete -c backupctl -f
complete -c backupctl -s h -l help -d 'show this help'
complete -c backupctl -l socket -r -F -d 'the daemon\'s control socket (default: $NANUMPAY_BACKUPD_SOCKET or /run/nanumpay-backupd/control.sock)'
complete -c backupctl -l json -d 'print what the daemon answered as JSON'
complete -c backupctl -l color -x -a 'auto always never' -d 'auto, always or never (default: auto, which honours NO_COLOR)'
complete -c backupctl -n '__backupctl_in -' -l version -d 'show the version and exit'

complete -c backupctl -n '__backupctl_in -' -a status -d 'show health, jobs, next and last runs, copies, disk'
complete -c backupctl -n '__backupctl_in status' -l watch -d 'keep showing it until Ctrl-C; with --json one line per change'

complete -c backupctl -n '__backupctl_in -' -a jobs -d 'list the jobs'

complete -c backupctl -n '__backupctl_in -' -a run -d 'make a backup now and watch it'
complete -c backupctl -n '__backupctl_at run 1' -k -a '(__backupctl_words jobs groups)'
complete -c backupctl -n '__backupctl_in run' -l no-wait -d 'start it and return at once'
complete -c backupctl -n '__backupctl_in run' -l force -d 'run although the job is disabled'
complete -c backupctl -n '__backupctl_in run' -l collection -x -k -a '(__backupctl_words collections)' -d 'only this collection (DB.C where a job has all databases)'
complete -c backupctl -n '__backupctl_in run' -l format -x -a 'bson json' -d 'of a collection: bson (default), or json: Extended JSON, a document a line'
complete -c backupctl -n '__backupctl_in run' -l kind -x -a 'full incremental differential' -d 'the kind of backup (default: full): full, incremental, differential'
complete -c backupctl -n '__backupctl_in run' -l disable-notifications -d 'tell nobody how it ends: no messages, no pings (it stays on record)'
complete -c backupctl -n '__backupctl_in run' -l only-to -x -k -a '(__backupctl_words destinations)' -d 'copies to this destination only, this once; several with commas; local: none elsewhere'
complete -c backupctl -n '__backupctl_in run' -l only-db -d 'only what saves a database: of a group, or without JOB of all enabled jobs'
complete -c backupctl -n '__backupctl_in run' -l only-files -d 'only what saves files: of a group, or without JOB of all enabled jobs'

complete -c backupctl -n '__backupctl_in -' -a cancel -d 'stop what is running: a backup, a restore, a verification, a drill'
complete -c backupctl -n '__backupctl_at cancel 1' -k -a '(__backupctl_words running)'

complete -c backupctl -n '__backupctl_in -' -a wait -d 'wait until no backup, upload or restore is running'
complete -c backupctl -n '__backupctl_in wait' -l timeout -x -d 'at most so long: 30s, 10m, 2h'
complete -c backupctl -n '__backupctl_in wait' -l restores -d 'wait for restores only'

complete -c backupctl -n '__backupctl_in -' -a runs -d 'list past and present runs, newest first'
complete -c backupctl -n '__backupctl_at runs 1' -k -a '(__backupctl_words jobs)'
complete -c backupctl -n '__backupctl_in runs' -s n -x -d 'show only the newest N'
complete -c backupctl -n '__backupctl_in runs' -l slices -d 'also those that only saved changes'
complete -c backupctl -n '__backupctl_in runs' -l fleet -d 'those of all hosts of the fleet, as they told MongoDB'

complete -c backupctl -n '__backupctl_in -' -a list -d 'list backups and where their copies are, newest first'
complete -c backupctl -n '__backupctl_at list 1' -k -a '(__backupctl_words jobs groups)'
complete -c backupctl -n '__backupctl_in list' -s n -x -d 'show only the newest N'
complete -c backupctl -n '__backupctl_in list' -l slices -d 'also the slices of changes, with what each covers'

complete -c backupctl -n '__backupctl_in -' -a show -d 'show a backup, a run or a group\'s backup in detail'
complete -c backupctl -n '__backupctl_at show 1' -k -a 'latest (__backupctl_words backups runs made)'

complete -c backupctl -n '__backupctl_in -' -a ls -d 'list the files that a backup holds'
complete -c backupctl -n '__backupctl_at ls 1' -k -a '(__backupctl_words backups)'
complete -c backupctl -n '__backupctl_at ls 2' -k -a '(__backupctl_words files)' -d 'a whole path in it (default: its first level)'
complete -c backupctl -n '__backupctl_in ls' -l recursive -d 'with all that is below'

complete -c backupctl -n '__backupctl_in -' -a timeline -d 'show which moments can be restored, and which cannot'
complete -c backupctl -n '__backupctl_at timeline 1' -k -a '(__backupctl_words jobs)'

complete -c backupctl -n '__backupctl_in -' -a restore -d 'bring a backup back to where it came from, or to another place'
complete -c backupctl -n '__backupctl_at restore 1' -k -a 'latest (__backupctl_words backups made groups)'
complete -c backupctl -n '__backupctl_at restore 2' -a 'latest' -d 'of the group that is named'
complete -c backupctl -n '__backupctl_in restore' -l at -x -a 'latest' -d 'as of this moment (see below)'
complete -c backupctl -n '__backupctl_in restore' -l job -x -k -a '(__backupctl_words jobs)' -d 'with --at: name of a job (default: as for run)'
complete -c backupctl -n '__backupctl_in restore' -l swap -d 'restore beside the database, check, then change places; keeps what was there'
complete -c backupctl -n '__backupctl_in restore' -l to-db -x -d 'into this database instead of its own'
complete -c backupctl -n '__backupctl_in restore' -l to -x -k -a '(__backupctl_words named) (__fish_complete_directories)' -d 'to this place (folder, file, database)'
complete -c backupctl -n '__backupctl_in restore' -l collection -x -k -a '(__backupctl_words collections)' -d 'only this collection'
complete -c backupctl -n '__backupctl_in restore' -l only -r -F -d 'only this part or path; may be repeated'
complete -c backupctl -n '__backupctl_in restore' -l overwrite -d 'what is there may be replaced (other sources than MongoDB)'
complete -c backupctl -n '__backupctl_in restore' -l active-only -d 'of n8n: only workflows that were active (--option active-only=yes)'
complete -c backupctl -n '__backupctl_in restore' -l option -x -d 'what the source knows besides'
complete -c backupctl -n '__backupctl_in restore' -l from -x -k -a '(__backupctl_words destinations)' -d 'take the copy at this destination'
complete -c backupctl -n '__backupctl_in restore' -l only-db -d 'of a group: only what is of a database'
complete -c backupctl -n '__backupctl_in restore' -l only-files -d 'of a group: only what is of files'
complete -c backupctl -n '__backupctl_in restore' -l partial -d 'of a group: what there is, although not everything can be restored'
complete -c backupctl -n '__backupctl_in restore' -l dry-run -d 'only show what would be done'
complete -c backupctl -n '__backupctl_in restore' -l no-safety-backup -d 'do not back up first what is going to be replaced'
complete -c backupctl -n '__backupctl_in restore' -l yes -d 'do not ask'

complete -c backupctl -n '__backupctl_in -' -a verify -d 'read copies again and prove them'
complete -c backupctl -n '__backupctl_at verify 1' -k -a 'latest (__backupctl_words backups)'
complete -c backupctl -n '__backupctl_in verify' -l job -x -k -a '(__backupctl_words jobs)' -d 'name of a job (default: the only one, or the application\'s)'
complete -c backupctl -n '__backupctl_in verify' -l level -x -a 'checksum structure restore' -d 'how far (default: checksum): checksum, structure, restore'
complete -c backupctl -n '__backupctl_in verify' -l from -x -k -a '(__backupctl_words destinations)' -d 'only the copies at this destination'
complete -c backupctl -n '__backupctl_in verify' -l no-wait -d 'start it and return at once'

complete -c backupctl -n '__backupctl_in -' -a drill -d 'restore a backup into a scratch place, compare it, and throw it away'
complete -c backupctl -n '__backupctl_at drill 1' -k -a '(__backupctl_words jobs)'
complete -c backupctl -n '__backupctl_in drill' -l backup -x -k -a '(__backupctl_words backups)' -d 'this one (default: the newest that is verified)'
complete -c backupctl -n '__backupctl_in drill' -l from -x -k -a '(__backupctl_words destinations)' -d 'take the copy at this destination'
complete -c backupctl -n '__backupctl_in drill' -l no-wait -d 'start it and return at once'

complete -c backupctl -n '__backupctl_in -' -a swaps -d 'list what restores with --swap keep; undo one, do it again, drop what it keeps'
complete -c backupctl -n '__backupctl_at swaps 1' -a 'undo redo drop' -d 'undo: what was there before is live again; redo: what was restored; drop: delete what is kept'
complete -c backupctl -n '__backupctl_at swaps 2' -k -a '(__backupctl_words swaps)'
complete -c backupctl -n '__backupctl_in swaps' -l yes -d 'do not ask'

complete -c backupctl -n '__backupctl_in -' -a send -d 'send a backup to destinations that do not have it'
complete -c backupctl -n '__backupctl_at send 1' -k -a 'latest (__backupctl_words backups)'
complete -c backupctl -n '__backupctl_in send' -l to -x -k -a '(__backupctl_words remote)' -d 'only to this one (default: to all)'

complete -c backupctl -n '__backupctl_in -' -a sync -d 'send what destinations lack of what they should have'
complete -c backupctl -n '__backupctl_at sync 1' -k -a '(__backupctl_words remote)'
complete -c backupctl -n '__backupctl_in sync' -l job -x -k -a '(__backupctl_words jobs)' -d 'only of this job (default: of all)'

complete -c backupctl -n '__backupctl_in -' -a copies -d 'show where the copies of a backup are and what is known of each'
complete -c backupctl -n '__backupctl_at copies 1' -k -a 'latest (__backupctl_words backups)'

complete -c backupctl -n '__backupctl_in -' -a copy -d 'make one more copy of a backup, move one, or encrypt one anew'
complete -c backupctl -n '__backupctl_at copy 1' -k -a 'latest (__backupctl_words backups)'
complete -c backupctl -n '__backupctl_at copy 2' -k -a '(__backupctl_words remote)'
complete -c backupctl -n '__backupctl_in copy' -l from -x -k -a '(__backupctl_words destinations)' -d 'take the copy at this destination'
complete -c backupctl -n '__backupctl_in copy' -l move -d 'delete the copy named by --from once the new one is proven'
complete -c backupctl -n '__backupctl_in copy' -l no-wait -d 'start it and return at once'

complete -c backupctl -n '__backupctl_in -' -a delete -d 'delete a backup with all its copies, or one copy'
complete -c backupctl -n '__backupctl_at delete 1' -k -a '(__backupctl_words backups)'
complete -c backupctl -n '__backupctl_in delete' -l from -x -k -a '(__backupctl_words destinations)' -d 'only the copy at this destination'
complete -c backupctl -n '__backupctl_in delete' -l force -d 'even if it is pinned, or the newest verified backup'
complete -c backupctl -n '__backupctl_in delete' -l yes -d 'do not ask'

complete -c backupctl -n '__backupctl_in -' -a prune -d 'show what retention would delete; delete it with --apply'
complete -c backupctl -n '__backupctl_at prune 1' -k -a '(__backupctl_words jobs)'
complete -c backupctl -n '__backupctl_in prune' -l apply -d 'delete, not only show'
complete -c backupctl -n '__backupctl_in prune' -l at -x -d 'show what would be deleted on that day (see below)'
complete -c backupctl -n '__backupctl_in prune' -l assume-schedule -d 'with --at: as if all scheduled backups until then had been made'
complete -c backupctl -n '__backupctl_in prune' -l yes -d 'do not ask'

complete -c backupctl -n '__backupctl_in -' -a pin -d 'keep retention from deleting a backup'
complete -c backupctl -n '__backupctl_at pin 1' -k -a 'latest (__backupctl_words backups)'
complete -c backupctl -n '__backupctl_in pin' -l reason -x -d 'why; it is shown wherever the backup is'

complete -c backupctl -n '__backupctl_in -' -a unpin -d 'let retention delete a backup again'
complete -c backupctl -n '__backupctl_at unpin 1' -k -a 'latest (__backupctl_words backups)'
complete -c backupctl -n '__backupctl_in unpin' -l all -d 'also what the daemon pinned because a newer backup is damaged or odd'

complete -c backupctl -n '__backupctl_in -' -a settings -d 'show the settings in force and where they come from'

complete -c backupctl -n '__backupctl_in -' -a doctor -d 'check MongoDB, tools, disk, destinations, clock, permissions'

complete -c backupctl -n '__backupctl_in -' -a monitor -d 'check every place: reachable, age, size, content, room, what ends'
complete -c backupctl -n '__backupctl_at monitor 1' -k -a '(__backupctl_words jobs)'
complete -c backupctl -n '__backupctl_in monitor' -l last -d 'do not look now: what the last look saw counts'
complete -c backupctl -n '__backupctl_in monitor' -l accept -x -k -a '(__backupctl_words backups)' -d 'what is odd about this backup is meant'

complete -c backupctl -n '__backupctl_in -' -a test -d 'try a destination with a real put, get and delete'
complete -c backupctl -n '__backupctl_at test 1' -k -a '(__backupctl_words remote)'

complete -c backupctl -n '__backupctl_in -' -a notify -d 'show who is told of what, and what was told; send a test'
complete -c backupctl -n '__backupctl_at notify 1' -a 'test' -d 'send a test'
complete -c backupctl -n '__backupctl_at notify 2' -k -a '(__backupctl_words channels)'
complete -c backupctl -n '__backupctl_in notify' -s n -x -d 'show the newest N (default: 20)'

complete -c backupctl -n '__backupctl_in -' -a report -d 'show the last days: runs, sizes, growth, promises kept, copies, what comes next'
complete -c backupctl -n '__backupctl_in report' -l days -x -d 'how many days (default: 7)'
complete -c backupctl -n '__backupctl_in report' -l html -r -F -d 'write it to this file, as a page with a chart'
complete -c backupctl -n '__backupctl_in report' -l language -x -a 'en ko' -d 'its language (default: as [notify] says): en, ko'

complete -c backupctl -n '__backupctl_in -' -a logs -d 'show the daemon\'s log (journalctl)'
complete -c backupctl -n '__backupctl_at logs 1' -k -a '(__backupctl_words runs)'
complete -c backupctl -n '__backupctl_in logs' -s f -d 'go on showing new lines'
complete -c backupctl -n '__backupctl_in logs' -s n -x -d 'the last N lines (default: 50; all of a run)'

complete -c backupctl -n '__backupctl_in -' -a reload -d 'let the daemon read its host file again'

complete -c backupctl -n '__backupctl_in -' -a rebuild -d 'rebuild the catalog from the manifests'

complete -c backupctl -n '__backupctl_in -' -a fleet -d 'show which host makes the jobs that all share, or change it'
complete -c backupctl -n '__backupctl_at fleet 1' -a 'take hand-over forget' -d 'take, hand-over or forget'

complete -c backupctl -n '__backupctl_in -' -a web-user -d 'add, list and remove who may use the web page without being an administrator of the application'
complete -c backupctl -n '__backupctl_at web-user 1' -a 'add list password remove' -d 'one of: add, list, password, remove'
complete -c backupctl -n '__backupctl_in web-user' -l role -x -a 'viewer operator admin' -d 'what they may do: viewer, operator, admin'
complete -c backupctl -n '__backupctl_in web-user' -l config -r -F -d 'the host file'

complete -c backupctl -n '__backupctl_in -' -a token -d 'make, list and revoke keys for programs that use the web page\'s interface'
complete -c backupctl -n '__backupctl_at token 1' -a 'create list revoke' -d 'one of: create, list, revoke'
complete -c backupctl -n '__backupctl_in token' -l scope -x -a 'read run download settings' -d 'what it may, can be given several times: read, run, download, settings'
complete -c backupctl -n '__backupctl_in token' -l days -x -d 'it ends after so many days'
complete -c backupctl -n '__backupctl_in token' -l config -r -F -d 'the host file'

complete -c backupctl -n '__backupctl_in -' -a completion -d 'print the completion script for a shell'
complete -c backupctl -n '__backupctl_at completion 1' -a 'bash zsh fish' -d 'one of: bash, zsh, fish'
complete -c backupctl -n '__backupctl_at completion 2' -a 'backupctl nanumpay-backupd' -d 'whose: backupctl, nanumpay-backupd (default: backupctl)'
