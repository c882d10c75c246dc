module workerorcd

go 1.19
