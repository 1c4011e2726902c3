"""Messages of containerd.task.v3. Made by pysandbox.ttrpc.generate from proto/task_v3.proto: do not edit."""

from __future__ import annotations

from pysandbox.shim.messages.task import CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse
from pysandbox.ttrpc.messages.wellknown import Empty
from pysandbox.ttrpc.service import Method, Service


Task = Service(
    "containerd.task.v3.Task",
    (
        Method("State", StateRequest, StateResponse),
        Method("Create", CreateTaskRequest, CreateTaskResponse),
        Method("Start", StartRequest, StartResponse),
        Method("Delete", DeleteRequest, DeleteResponse),
        Method("Pids", PidsRequest, PidsResponse),
        Method("Pause", PauseRequest, Empty),
        Method("Resume", ResumeRequest, Empty),
        Method("Checkpoint", CheckpointTaskRequest, Empty),
        Method("Kill", KillRequest, Empty),
        Method("Exec", ExecProcessRequest, Empty),
        Method("ResizePty", ResizePtyRequest, Empty),
        Method("CloseIO", CloseIORequest, Empty),
        Method("Update", UpdateTaskRequest, Empty),
        Method("Wait", WaitRequest, WaitResponse),
        Method("Stats", StatsRequest, StatsResponse),
        Method("Connect", ConnectRequest, ConnectResponse),
        Method("Shutdown", ShutdownRequest, Empty),
    ),
)
